"""What the verbs share: the repo they run in, the present, `--json`, and looking up commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
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


def now(layout: Layout) -> datetime:
    """The present in the zone of mvc.toml; naive, which is the machine's, where that names none or
    cannot be read: a mistake there must not hide the history.

    Not `config.zone`, whose tzlocal and its imports are a tenth of a page of `mvc log`.
    """
    from mvc.errors import MvcError
    from mvc.store import config

    try:
        settings = config.load(layout)
    except MvcError:
        return datetime.now()
    return datetime.now(config.zone(settings) if settings.snapshot.zone else None)


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
