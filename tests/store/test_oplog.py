"""The operation log: appended to, read from its end, whatever a crash left in it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mvc.errors import DiskFull, RepoError
from mvc.operations import Operation
from mvc.store import git as run_git
from mvc.store import journal, oplog, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from tests.store.conftest import git, train

NOW = datetime(2026, 11, 20, 14, tzinfo=UTC)


def entry(number: int, **extra: str) -> Operation:
    shas = (f"{number:040x}", f"{number + 1:040x}")
    return Operation(
        id=f"{number:08x}",
        time=NOW + timedelta(hours=number),
        command=f"mvc train {number}.jsonl",
        user="ada",
        pid=7,
        refs={"refs/heads/main": shas},
        head=("refs/heads/main", "refs/heads/main"),
        commit=shas,
        extra=extra,
    )


@pytest.fixture
def at(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_newest_first_and_as_they_were_written(at: Layout) -> None:
    assert list(oplog.entries(at)) == []
    written = [entry(number) for number in range(50)]
    for each in written:
        oplog.append(at, each)
    assert list(oplog.entries(at)) == written[::-1]
    assert oplog.find(at) == written[-1]
    assert len(at.oplog.read_bytes().splitlines()) == 50


@pytest.mark.parametrize("torn", [b"{", b'{"id": "00000002", "ti', b"\xff\xfe", b"\n\n", b"[]\n"])
def test_a_torn_line_hides_no_other(at: Layout, torn: bytes) -> None:
    oplog.append(at, entry(1))
    with at.oplog.open("ab") as file:
        file.write(torn)
    assert list(oplog.entries(at)) == [entry(1)]
    oplog.append(at, entry(2))
    oplog.append(at, entry(3))
    assert list(oplog.entries(at)) == [entry(3), entry(2), entry(1)]


def test_an_operation_is_written_once_and_only_if_it_changed_something(at: Layout) -> None:
    for _ in range(2):
        oplog.append(at, entry(1))
        oplog.append(at, entry(2))
    same = ("a" * 40, "a" * 40)
    nothing = Operation("ffffffff", NOW, "mvc checkout main", "ada", 7, {}, same, same)
    oplog.append(at, nothing)
    assert [each.id for each in oplog.entries(at)] == ["00000002", "00000001"]


def test_an_operation_is_found_by_the_beginning_of_its_id(at: Layout) -> None:
    with pytest.raises(RepoError, match="nothing is in the operation log"):
        oplog.find(at)
    for number in (0x1A, 0x1B):
        oplog.append(at, entry(number))
    assert oplog.find(at, "0000001a") == entry(0x1A)
    with pytest.raises(RepoError, match="several operations begin with 0000001"):
        oplog.find(at, "0000001")
    with pytest.raises(RepoError, match="no operation 2"):
        oplog.find(at, "2")


def test_a_full_disk_tears_a_line_and_the_next_command_writes_it_whole(
    at: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    oplog.append(at, entry(1))
    whole = at.oplog.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(DiskFull):
            oplog.append(at, entry(2))
    at.oplog.write_bytes(at.oplog.read_bytes()[: len(whole) + 30])
    oplog.append(at, entry(2))
    assert list(oplog.entries(at)) == [entry(2), entry(1)]


def test_the_command_is_the_lock_s(line: Layout) -> None:
    with Lock(line, "mvc train monday.jsonl"):
        commit = train(line, 3)
    last = oplog.find(line)
    parent = git(line.root, "rev-parse", "HEAD~1").strip()
    assert (last.command, last.pid) == ("mvc train monday.jsonl", os.getpid())
    assert last.refs == {"refs/heads/main": (parent, commit)}
    assert last.commit == (parent, commit)
    assert [each.commit[1] for each in oplog.entries(line)][::-1] == git(
        line.root, "rev-list", "--reverse", "HEAD"
    ).split()


def test_what_a_killed_promotion_did_is_logged_by_who_finds_it(line: Layout) -> None:
    def journaled(new: str) -> None:
        ends = ("refs/heads/main", "refs/heads/main")
        told = oplog.operation(
            line, {ends[0]: (here, new)}, ends, (here, new), command="mvc train x"
        )
        record = journal.Journal(
            op="promote", was=here, old=here, new=new, ref=ends[0], head=ends[0],
            pid=2**22 - 1, operation=told,
        )  # fmt: skip
        journal.write(line, record)

    here = git(line.root, "rev-parse", "HEAD").strip()
    before = list(oplog.entries(line))
    journaled("e" * 40)  # its ref never moved
    assert "dropped" in (workspace.recover(line) or "")
    assert list(oplog.entries(line)) == before
    new = run_git.write(line.root, "commit-tree", "HEAD^{tree}", "-p", here, "-m", "x")
    later = run_git.write(line.root, "commit-tree", "HEAD^{tree}", "-p", new, "-m", "by hand")
    git(line.root, "update-ref", "refs/heads/main", later)  # it moved, and then git went on
    journaled(new)
    assert "moved since" in (workspace.recover(line) or "")
    assert oplog.find(line).refs == {"refs/heads/main": (here, new)}


def test_what_undo_needs_is_protected(line: Layout) -> None:
    shas = git(line.root, "rev-list", "--reverse", "HEAD").split()
    assert set(oplog.protected(line, 1)) == {shas[1], shas[2]}
    assert set(oplog.protected(line, 9)) == set(shas)
    assert oplog.protected(line, 0) == {}
    git(line.root, "tag", "-m", "pin", "pin/x", shas[0])
    tag = git(line.root, "rev-parse", "pin/x").strip()
    ends = ("refs/heads/main", "refs/heads/main")
    oplog.append(line, oplog.operation(line, {"refs/tags/pin/x": (None, tag)}, ends, (None, None)))
    [reason] = oplog.protected(line, 1).values()
    assert set(oplog.protected(line, 1)) == {shas[0]}  # a tag's commit
    assert reason == f"undo {oplog.find(line).id}"


def test_what_was_undone_is_protected_for_a_while(line: Layout) -> None:
    shas = git(line.root, "rev-list", "--reverse", "HEAD").split()
    made = oplog.find(line)
    workspace.retrace(
        line, {"refs/heads/main": (shas[2], shas[1])}, "refs/heads/main", shas[1], made.id
    )
    for number in range(3):
        oplog.append(line, entry(number))
    undone = next(each for each in oplog.entries(line) if each.extra)
    assert undone.extra == {"undoes": made.id}
    assert oplog.protected(line, 1, undone.time + timedelta(seconds=1)) == {}
    early = oplog.protected(line, 0, NOW - timedelta(days=10_000))
    assert early == {shas[2]: f"undo {undone.id}"}
