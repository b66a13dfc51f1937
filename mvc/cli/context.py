"""What the verbs share: the repo they run in, the present, `--json`, and looking up commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mvc.render.marks import Lookup
    from mvc.store.layout import Layout
    from mvc.types import Commit

as_json = click.option(
    "--json", "json_", is_flag=True, help="One JSON document on stdout, nothing else."
)


def here() -> Layout:
    """The model repo that the command runs in.

    Raises:
        RepoError: there is none.
    """
    from mvc.store.layout import find

    return find(Path.cwd())


def expect(*modules: str) -> None:
    """Import what the command will need, in a thread, while git is at work."""

    def bring() -> None:
        for module in modules:
            import_module(module)

    Thread(target=bring, name="mvc-expect").start()


def now(layout: Layout) -> datetime:
    """The present in the zone of mvc.toml, or of the machine while mvc.toml cannot be read: a
    mistake there must not hide the history."""
    from mvc.errors import MvcError
    from mvc.store import config

    try:
        return datetime.now(config.zone(config.load(layout)))
    except MvcError:
        return datetime.now().astimezone()


def lookup(layout: Layout, commits: Sequence[Commit]) -> Lookup:
    """Finds commits by hash, in `commits` first and then in the repo."""
    known = {commit.commit: commit for commit in commits}

    def find(sha: str) -> Commit | None:
        if sha not in known:
            from mvc.errors import MvcError
            from mvc.store import history

            try:
                known[sha] = history.commit(layout.root, sha)
            except MvcError:
                return None
        return known.get(sha)

    return find


def write(value: Any) -> None:
    """Print `value` as the command's one JSON document."""
    from mvc.render import document

    click.echo(document.dump(value))
