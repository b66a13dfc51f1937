"""Two remotes: what one lacks comes from the other, and a clone can fill a second one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mvc.cli import main
from mvc.errors import ObjectMissing
from mvc.ops import checkout, fetch, fsck, push, remote
from mvc.store import collected, pointers, refs, tracked
from mvc.store.layout import Layout
from tests.ops.keeping import collect
from tests.ops.lines import cloned, content, git, shared_line, state_of, whole


def backed_up(at: Layout, folder: Path) -> Layout:
    """Add the remote `backup`: `folder/hub2.git` and `folder/store2`."""
    if not (folder / "hub2.git").exists():
        git(folder, "init", "-q", "--bare", "-b", "main", "hub2.git")
    remote.add(at, "backup", str(folder / "hub2.git"), str(folder / "store2"))
    return at


def record(at: Layout, name: str, states: dict[str, str]) -> None:
    """Say on a remote that gc left so much of these commits."""
    refs.fetch_refs(at, name)
    made = collected.commit(at, name, states)  # type: ignore[arg-type]
    refs.push_refs(at, name, {collected.REF: made})


def stored(store: Path, at: Layout, rev: str, name: str) -> Path:
    """A file of a commit's state in a store."""
    pointer = tracked.pointers_of(at.root, git(at.root, "rev-parse", rev))[0]
    md5 = {path: md5 for path, md5, _ in pointers.entries(at, pointer)}[name]
    return store / "files" / "md5" / md5[:2] / md5[2:]


@pytest.mark.parametrize("harm", ["given up", "thin", "damaged", "an extra", "away"])
def test_what_one_remote_lacks_comes_from_the_next(tmp_path: Path, harm: str) -> None:
    a = backed_up(shared_line(tmp_path), tmp_path)
    push.push(a, "origin")
    push.push(a, "backup")
    old = git(a.root, "rev-parse", "HEAD~3")  # batch 1
    if harm in ("given up", "thin"):
        record(a, "origin", {old: "absent" if harm == "given up" else "thin"})
    b = cloned(tmp_path, "b")
    git(b.root, "remote", "add", "backup", str(tmp_path / "hub2.git"))
    if harm in ("damaged", "thin"):
        bad = stored(tmp_path / "store", a, old, "optimizer.pt")
        bad.chmod(0o644)
        bad.write_bytes(b"x" * bad.stat().st_size) if harm == "damaged" else bad.unlink()
    if harm == "an extra":
        local = b.root / ".dvc" / "config.local"
        url = "url = oss://bucket/path\n"  # of a package that nobody installs here
        local.write_text(local.read_text().replace(f"url = {tmp_path / 'store'}\n", url))
        assert url in local.read_text()
    if harm == "away":
        shutil.rmtree(tmp_path / "store")
    checkout.checkout(b, old)
    assert content(b.state) == state_of(1, tmp_path)


def test_a_clone_fills_a_second_remote(tmp_path: Path) -> None:
    """Of the older states it has none; they come from the first."""
    shared_line(tmp_path)
    b = backed_up(cloned(tmp_path, "b"), tmp_path)
    result = push.push(b, "backup")
    assert len(result.commits) == whole(tmp_path / "store2", tmp_path / "hub2.git") == 5
    shutil.rmtree(tmp_path / "store")
    assert not fsck.fsck(b, remote="backup").findings


def test_what_gc_took_on_the_first_remote_is_told_on_the_second(tmp_path: Path) -> None:
    a = shared_line(tmp_path, 4)
    collect(a, {"last": 1}, thin={"last": 2}, remotes=["origin"])
    b = backed_up(cloned(tmp_path, "b"), tmp_path)
    push.push(b, "backup")
    fetch.fetch(b, "backup")
    there = collected.read(b, "backup")
    assert there == collected.read(b, "origin")
    assert set(there.values()) == {"thin", "absent"}
    assert not fsck.fsck(b, remote="backup").findings


def test_what_no_remote_has_stops_the_push(tmp_path: Path) -> None:
    a = shared_line(tmp_path)
    stored(tmp_path / "store", a, "HEAD~2", "optimizer.pt").unlink()
    b = backed_up(cloned(tmp_path, "b"), tmp_path)
    with pytest.raises(ObjectMissing, match=r"current_model/optimizer\.pt of commit") as caught:
        push.push(b, "backup")
    assert git(tmp_path / "hub2.git", "for-each-ref") == ""
    assert "`mvc push --all origin`" in caught.value.hint


def test_the_cure_of_an_older_object_that_a_remote_lost(tmp_path: Path) -> None:
    """What the hints say, done: a plain push looks only at what is new."""
    a = shared_line(tmp_path)
    b = cloned(tmp_path, "b")
    stored(tmp_path / "store", a, "HEAD~2", "optimizer.pt").unlink()
    (found,) = fsck.fsck(a, remote="origin").findings
    with pytest.raises(ObjectMissing) as caught:
        checkout.checkout(b, "@1")
    for hint in (found.hint, caught.value.hint):
        assert "`mvc push --all origin`" in hint
    assert main.run(["-C", str(a.root), "push", "--all", "origin"]) == 0
    assert not fsck.fsck(a, remote="origin").findings
    checkout.checkout(b, "@1")
    assert content(b.state) == state_of(1, tmp_path)


def test_a_remote_s_record_excuses_no_head_and_no_snapshot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody who can push there can write it, and damage behind it."""
    a = shared_line(tmp_path)
    old, pinned, head = (git(a.root, "rev-parse", f"HEAD~{n}") for n in (3, 2, 0))
    for day in ("2026-11-20", "2026-11-21"):  # one is annotated
        words = ("-a", "-m", "a day") if day.endswith("1") else ()
        git(a.root, "tag", *words, f"snapshot/{day}", pinned if words else old)
    push.push(a)
    between = git(a.root, "rev-parse", "HEAD~1")
    record(a, "origin", {old: "thin", pinned: "absent", between: "absent", head: "absent"})
    stored(tmp_path / "store", a, pinned, "optimizer.pt").unlink()
    fetch.fetch(a)
    assert collected.read(a, "origin") == {old: "thin", between: "absent"}
    result = fsck.fsck(a, remote="origin")
    assert {each.path for each in result.findings} == {"current_model/optimizer.pt"}
    assert result.num_excused == 2
    main.run(["-C", str(a.root), "fsck", "--remote", "origin"])
    assert "2 commits there: not missed" in capsys.readouterr().out


def test_a_vast_record_on_a_remote_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = shared_line(tmp_path, 1)
    old = git(a.root, "rev-parse", "HEAD~2")
    record(a, "origin", {old: "absent"})
    fetch.fetch(a)
    assert collected.read(a, "origin") == {old: "absent"}
    monkeypatch.setattr(collected, "_LIMIT", 40)
    assert collected.read(a, "origin") == {}
