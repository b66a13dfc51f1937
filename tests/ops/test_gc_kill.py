"""SIGKILL at 20 moments of `mvc gc --apply`, here and on a remote: run again, it finishes."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from mvc.ops import checkout, fsck, gc, log, pin
from mvc.store import collected, trash
from mvc.store.layout import Layout
from tests.killing import count_events, run_and_kill, spread
from tests.ops.keeping import NOW, cached, collect, states
from tests.ops.lines import content, git, new_line, share, state_of
from tests.ops.test_gc_remote import there

KEEP = {"last": 1, "trash": 7}
THIN = {"last": 3}
KILLS = 20


def copy(origin: Path, to: Path) -> Layout:
    shutil.rmtree(to, ignore_errors=True)
    subprocess.run(["cp", "-a", origin, to], check=True)
    return Layout(to / "a")


def check(at: Layout, folder: Path, before: set[str]) -> None:
    """All is as after an undisturbed gc, and nothing is lost that was not to go."""
    assert states(at) == {
        6: "whole", 5: "thin", 4: "thin", 3: "absent", 2: "whole", 1: "absent", 0: "absent",
    }  # fmt: skip
    resting = {md5 for each in trash.listing(at) for md5 in trash.objects(at, each.id)}
    assert cached(at) | resting == before and not cached(at) & resting
    assert not [p for p in at.trash.iterdir() if not (p / "manifest.json").exists()]
    found = gc.gc(at, now=NOW).plan
    assert found.num_stray_bytes == 0, "something is left that nobody names"
    assert not fsck.fsck(at).findings
    line = {each.batch: each.commit for each in log.log(at, "main")}
    for number in (2, 6):
        checkout.checkout(at, line[number])
        assert content(at.state) == state_of(number, folder)
    checkout.checkout(at, "main")


@pytest.mark.slow
def test_killed_at_any_moment_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvc.ops.collect._HERE", 4)
    (tmp_path / "origin").mkdir()
    first = new_line(tmp_path / "origin" / "a", 6)
    pin.pin(first, "@2", now=NOW)
    before, scratch = cached(first), tmp_path / "scratch"
    at = copy(tmp_path / "origin", scratch)
    act = partial(collect, at, KEEP, thin=THIN)
    for _ in range(2):  # the first run makes what later ones find
        copy(tmp_path / "origin", scratch)
        events = count_events(act)
    whole = 0
    for nth in spread(events, KILLS):
        copy(tmp_path / "origin", scratch)
        assert run_and_kill(act, nth) or nth >= events - 2
        killed = {c.batch for c in log.log(at) if c.commit not in collected.read(at)}
        whole += 6 in killed
        assert not fsck.fsck(at).findings, "between the kill and the next gc nothing is damage"
        act()
        check(at, tmp_path, before)
    assert whole
    # both halves come back, whatever was killed
    for each in trash.listing(at):
        gc.restore(at, each.id)
    assert cached(at) == before and set(states(at).values()) == {"whole"}


@pytest.mark.slow
def test_killed_at_any_moment_on_a_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvc.ops.collect._THERE", 4)
    monkeypatch.setattr("mvc.ops.collect._HERE", 8)
    monkeypatch.setattr("mvc.store.wire.JOBS", 1)
    origin, scratch = tmp_path / "origin", tmp_path / "scratch"
    scratch.mkdir()
    first = new_line(scratch / "a", 6)
    share(first, scratch)
    pin.pin(first, "@2", now=NOW)
    subprocess.run(["cp", "-a", scratch, origin], check=True)
    before, before_there = cached(first), there(scratch)
    at = copy(origin, scratch)
    act = partial(collect, at, KEEP, thin=THIN, remotes=["origin"])
    for _ in range(2):
        copy(origin, scratch)
        events = count_events(act)
    expected = there(scratch)
    assert expected < before_there
    for nth in spread(events, KILLS):
        copy(origin, scratch)
        assert run_and_kill(act, nth) or nth >= events - 2
        act()
        assert there(scratch) == expected, "the remote holds what its kept commits name"
        resting = {md5 for each in trash.listing(at) for md5 in trash.objects(at, each.id)}
        assert cached(at) | resting == before
        assert not fsck.fsck(at, remote="origin").findings
        assert not list((at.root / ".git").rglob("*.lock"))
    git(scratch, "clone", "-q", str(scratch / "hub.git"), str(scratch / "plain"))
    for rev, seed in (("@2", 2), ("main", 6)):
        checkout.checkout(at, rev)
        assert content(at.state) == state_of(seed, tmp_path)
