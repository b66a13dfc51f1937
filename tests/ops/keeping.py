"""What the tests of `mvc gc` share: lines to collect from, rules, and looking at what is left."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mvc.keeping import GcResult
from mvc.ops import checkout, gc, log
from mvc.settings import KeepSettings, Settings, ThinSettings
from mvc.store import config, objects
from mvc.store.layout import Layout
from tests.ops.lines import START, content, new_line, state_of

NOW = START + timedelta(days=2)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Lines of so many batches, each made once."""
    made: dict[int, Path] = {}

    def template(batches: int) -> Path:
        if batches not in made:
            made[batches] = new_line(tmp_path_factory.mktemp("line") / "m", batches).root
        return made[batches]

    return template


@pytest.fixture
def line_of(templates: Callable[[int], Path], tmp_path: Path) -> Callable[[int], Layout]:
    """`line_of(3)`: a line of three batches of this test's own."""

    def line_of(batches: int) -> Layout:
        subprocess.run(["cp", "-a", templates(batches), tmp_path / "m"], check=True)
        return Layout(tmp_path / "m")

    return line_of


def rules(at: Layout, keep: dict[str, Any] | None = None, **thin: Any) -> Settings:
    found = config.load(at)
    keep = {"undo": 0, **(keep or {})}
    return msgspec.structs.replace(found, keep=KeepSettings(**keep), thin=ThinSettings(**thin))


def collect(at: Layout, keep: dict[str, Any] | None = None, **options: Any) -> GcResult:
    thin = options.pop("thin", {})
    options.setdefault("now", NOW)
    return gc.gc(at, apply=True, settings=rules(at, keep, **thin), **options)


def commits(at: Layout) -> dict[int | None, str]:
    """HEAD's line by number; the start is 0."""
    return {each.batch: each.commit for each in log.log(at)}


def cached(at: Layout) -> set[str]:
    folder = objects.cache_folder(at)
    return {"".join(path.relative_to(folder).parts) for path in folder.rglob("*") if path.is_file()}


def states(at: Layout) -> dict[int | None, str]:
    """What the log says is left of each commit."""
    left = log.left(at, log.log(at))
    return {each.batch: left.get(each.commit, "whole") for each in log.log(at)}


def assert_whole(at: Layout, number: int, folder: Path) -> None:
    checkout.checkout(at, commits_of_main(at)[number])
    assert content(at.state) == state_of(number, folder)
    checkout.checkout(at, "main")


def commits_of_main(at: Layout) -> dict[int | None, str]:
    return {each.batch: each.commit for each in log.log(at, "main")}


def pointers_of(at: Layout, commit: str) -> Any:
    from mvc.store import tracked

    return tracked.pointers_of(at.root, commit)
