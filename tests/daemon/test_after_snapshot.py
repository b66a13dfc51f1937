"""What follows the snapshot: git packs, mvc pushes and collects, each as mvc.toml wants it."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from mvc.daemon.calendar import Calendar
from mvc.errors import LockHeld
from mvc.ops import fsck, log
from mvc.store import packing
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from tests.conftest import Line, batch, start
from tests.daemon.test_calendar import Told
from tests.ops.conftest import edit
from tests.ops.lines import START, cloned, commit, git, shared_line


def a_night(at: Layout) -> Told:
    """The calendar at the morning after the last commit of `at`."""
    told = Told()
    calendar = Calendar(at, told, lambda: START + timedelta(days=1))  # type: ignore[arg-type]
    calendar.look()
    calendar.send()
    return told


def said(told: Told) -> list[str]:
    return [note for note in told.notes if note.startswith("`mvc")]


def test_the_snapshot_is_pushed_and_then_collected(tmp_path: Path) -> None:
    at = shared_line(tmp_path, batches=2)
    for seed in (3, 4):
        commit(at, seed)
    edit(at, "snapshot.zone=UTC", "snapshot.push=origin", "snapshot.gc=true", "keep.last=1")
    edit(at, "keep.undo=0", "keep.snapshots=false", "keep.tags=[]")
    told = a_night(at)
    assert told.warnings == []
    assert said(told) == [
        "`mvc push origin` after the snapshot is done",
        "`mvc gc --apply` after the snapshot is done",
    ]
    assert git(tmp_path / "hub.git", "tag").split() == [f"snapshot/{day}" for day in told.pins]
    assert git(tmp_path / "hub.git", "rev-parse", "main") == git(at.root, "rev-parse", "HEAD")
    left = log.left(at, log.log(at))
    states = [left.get(each.commit, "whole") for each in log.log(at) if each.batch is not None]
    assert states[0] == "whole" and "whole" not in states[1:] and "absent" in states
    assert not fsck.fsck(at).findings
    other = cloned(tmp_path, "b")
    assert [each.commit for each in log.log(other)] == [each.commit for each in log.log(at)]
    assert said(a_night(at)) == []  # done once


def test_what_could_not_be_pushed_is_not_collected(tmp_path: Path) -> None:
    at = shared_line(tmp_path, batches=3)
    edit(at, "snapshot.zone=UTC", "snapshot.push=origin", "snapshot.gc=true", "keep.last=1")
    shutil.move(tmp_path / "hub.git", tmp_path / "away.git")
    told = a_night(at)
    assert "`mvc push origin` after the snapshot failed" in told.warnings[0]
    assert said(told) == [] and log.left(at, log.log(at)) == {}


def loose(root: Path) -> int:
    return int(git(root, "count-objects").split()[0])


@pytest.fixture
def scattered(new_line: Line) -> Layout:
    """A line of which every object is loose, as those that mvc writes."""
    new_line.git("config", "fastimport.unpackLimit", "100000")
    (new_line.root / ".gitignore").write_text(".mvc\n")
    when = START.isoformat()
    new_line.add(start(when), *[batch(n, when) for n in range(1, 3200)])
    return Layout(new_line.root)


def test_loose_objects_are_packed_and_nothing_is_pruned(scattered: Layout) -> None:
    root = scattered.root
    git(root, "config", "gc.pruneExpire", "now")
    hidden = subprocess.run(
        ["git", "hash-object", "-w", "--stdin"], cwd=root, input=b"x", capture_output=True
    ).stdout.decode()
    assert loose(root) > 7000
    with Lock(scattered, "mvc fetch"), pytest.raises(LockHeld):
        packing.pack(scattered)
    assert loose(root) > 7000
    packing.pack(scattered)
    assert loose(root) < 10
    assert git(root, "cat-file", "-t", hidden.strip()) == "blob"
    assert len(log.log(scattered)) == 3200
    git(root, "fsck", "--strict")


def test_the_night_packs(scattered: Layout) -> None:
    scattered.config.write_text('[base]\nmodel = "tiny"\n[snapshot]\nzone = "UTC"\n')
    told = a_night(scattered)
    assert len(told.pins) == 1 and told.warnings == []
    assert loose(scattered.root) < 10
