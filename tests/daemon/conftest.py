"""A model repo, an inbox, and a daemon in a thread."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from mvc.daemon import loop, status
from mvc.ops import log
from mvc.store.layout import Layout
from mvc.types import Commit
from tests.ops.conftest import new_model, tiny_base

__all__ = ["new_model", "tiny_base"]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def at(new_model: Callable[..., Layout]) -> Layout:
    return new_model("train.checkpoint_steps=1", *QUICK)


QUICK = ("watch.settle_seconds=0.2", "watch.order=name", "watch.min_free_gb=0", "snapshot.zone=UTC")


TEXT = " ".join(" ".join(text.split()) for _, text in sorted(topics.items()))


def rows(path: Path, first: int, count: int) -> Path:
    """A data file with rows of Python's documentation, from row `first` on."""
    found = [TEXT[24 * i : 24 * i + 24] for i in range(first, first + count)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in found))
    return path


def fill(inbox: Path, count: int, num_rows: int = 4, first: int = 0) -> list[Path]:
    """Whole files in the inbox, in the order of their names."""
    found = [inbox / f"day-{i:03}.jsonl" for i in range(first, first + count)]
    for i, path in enumerate(found, first):
        rows(path, num_rows * i, num_rows)
        os.utime(path, (1_700_000_000 + i, 1_700_000_000 + i))
    return found


def batches_of(at: Layout) -> list[Commit]:
    """The line's batches, oldest first."""
    return [each for each in reversed(log.log(at)) if each.kind == "batch"]


def done(inbox: Path) -> list[str]:
    return sorted(path.name for path in (inbox / "done").rglob("*.jsonl"))


def failed(inbox: Path) -> list[str]:
    return sorted(path.name for path in (inbox / "failed").iterdir())


@pytest.fixture
def daemon(at: Layout, inbox: Path) -> Iterator[Callable[[], threading.Thread]]:
    """Starts a daemon in a thread; it is stopped in the end."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start() -> threading.Thread:
        thread = threading.Thread(
            target=loop.run, args=(at, inbox), kwargs={"should_stop": stop.is_set}
        )
        threads.append(thread)
        thread.start()
        return thread

    yield start
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def state(at: Layout) -> str | None:
    told = status.read(at)
    return told and told.state
