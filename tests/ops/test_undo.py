"""`mvc undo`: each kind of operation is taken back to the byte, or refused with the way out."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from mvc.cli import main
from mvc.errors import LockHeld, ObjectMissing, RepoError
from mvc.ops import checkout, fsck, gc, ops, pin, pull, push, remote, rollback, snapshot, undo
from mvc.settings import KeepSettings
from mvc.store import config, history, oplog
from mvc.store.layout import Layout
from mvc.store.lock import Line, Lock
from tests.ops import lines
from tests.ops.conftest import Heard, edit, train_one
from tests.ops.conftest import state_bytes as real_bytes
from tests.ops.lines import commit, content, git, new_line

NOW = datetime(2026, 11, 20, 14, tzinfo=UTC)


@pytest.fixture
def at(tmp_path: Path) -> Layout:
    """A line with two batches, made without torch."""
    return new_line(tmp_path / "model")


def seen(at: Layout) -> tuple[object, ...]:
    """All that an undo has to bring back: refs, HEAD, tracked files, state and batch."""
    refs = git(at.root, "for-each-ref", "refs/heads", "refs/tags").splitlines()
    head = (at.root / ".git" / "HEAD").read_text()
    status = git(at.root, "status", "--porcelain")
    files = {path: data for path, data in content(at.root).items() if not path.startswith(".")}
    return refs, head, status, files


def train(at: Layout, seed: int) -> None:
    with Lock(at, f"mvc train day-{seed}.jsonl", moves=True):
        commit(at, seed)


ACTS = {
    "train": lambda at: train(at, 3),
    "checkout": lambda at: checkout.checkout(at, "@1"),
    "rollback": lambda at: rollback.rollback(at, "@0", now=NOW),
    "snapshot": lambda at: snapshot.snapshot(at, now=NOW),
    "pin": lambda at: pin.pin(at, "@1", now=NOW),
}


@pytest.mark.parametrize("act", ACTS)
def test_it_takes_back_and_brings_again(act: str, at: Layout) -> None:
    before, logged = seen(at), len(list(oplog.entries(at)))
    ACTS[act](at)
    after = seen(at)
    assert after != before
    done = oplog.find(at)
    result = undo.undo(at)
    assert seen(at) == before
    assert result.undone == done
    assert result.made.operation == oplog.find(at)
    assert result.made.operation.extra == {"undoes": done.id}
    again = undo.undo(at)  # the undo of the undo is a redo
    assert seen(at) == after
    assert again.undone == result.made.operation
    undo.undo(at)
    assert seen(at) == before
    assert len(list(oplog.entries(at))) == logged + 4
    assert fsck.fsck(at).findings == ()


def test_a_train_that_started_a_branch(at: Layout) -> None:
    checkout.checkout(at, "@1")
    before = seen(at)
    train(at, 7)
    after = seen(at)
    assert undo.undo(at).branch is None
    assert seen(at) == before
    assert "from-x" not in git(at.root, "branch", "--list")
    assert undo.undo(at).branch == "from-x"
    assert seen(at) == after
    checkout.checkout(at, "main")
    undo.undo(at, oplog.find(at, list(oplog.entries(at))[1].id).id)  # the redo, from elsewhere
    assert "from-x" not in git(at.root, "branch", "--list")
    assert (git(at.root, "symbolic-ref", "HEAD")) == "refs/heads/main"


def test_unpinning_is_taken_back(at: Layout) -> None:
    pin.pin(at, "@1", "why", now=NOW)
    before = seen(at)
    pin.unpin(at, "@1", now=NOW)
    undo.undo(at)
    assert seen(at) == before


def test_a_file_whose_batch_was_undone_trains_again(trained: Layout, batches: list[Path]) -> None:
    after = real_bytes(trained)
    first = git(trained.root, "rev-parse", "HEAD")
    undo.undo(trained)
    assert history.find_batch(trained.root, history.commit(trained.root, first).data.md5) is None  # type: ignore[union-attr]
    assert real_bytes(trained) != after
    result = train_one(trained, batches[2])
    assert not result.already
    assert result.commit.commit != first
    assert real_bytes(trained) == after  # the same batch on the same parent: the same bits
    assert fsck.fsck(trained).findings == ()


def test_git_gc_keeps_what_was_undone(at: Layout) -> None:
    snapshot.snapshot(at, "the day", now=NOW)
    train(at, 3)
    gone = git(at.root, "rev-parse", "HEAD")
    undo.undo(at)
    tag = oplog.find(at, list(oplog.entries(at))[2].id)
    undo.undo(at, tag.id)
    git(at.root, "reflog", "expire", "--expire=now", "--all")
    git(at.root, "gc", "--quiet", "--prune=now")
    undo.undo(at)
    assert git(at.root, "for-each-ref", "--format=%(contents:subject)", "refs/tags") == "the day"
    undo.undo(at, list(oplog.entries(at))[2].id)
    assert git(at.root, "rev-parse", "HEAD") == gone
    assert content(at.state) == lines.state_of(3, at.root.parent)


def test_a_named_one_and_what_stands_on_it(at: Layout) -> None:
    before = seen(at)
    train(at, 3)
    third = oplog.find(at)
    train(at, 4)
    fourth = oplog.find(at)
    with pytest.raises(RepoError) as refused:
        undo.undo(at, third.id)
    assert "main moved since, by `mvc train day-4.jsonl`" in refused.value.message
    assert refused.value.hint == f"`mvc undo {fourth.id}` first"
    undo.undo(at, fourth.id[:6])
    undo.undo(at, third.id)
    assert seen(at) == before
    snapshot.snapshot(at, now=NOW)
    undo.undo(at, oplog.find(at).id)
    assert seen(at) == before


def test_an_older_one_with_nothing_on_it(at: Layout) -> None:
    snapshot.snapshot(at, now=NOW)
    pinned = oplog.find(at)
    train(at, 3)
    state = content(at.state)
    undo.undo(at, pinned.id)
    assert snapshot.snapshots(at) == []
    assert content(at.state) == state


def test_a_checkout_that_training_followed(at: Layout) -> None:
    checkout.checkout(at, "@1")
    moved = oplog.find(at)
    train(at, 7)
    with pytest.raises(RepoError, match=r"HEAD moved since, by `mvc train day-7\.jsonl`"):
        undo.undo(at, moved.id)


def test_what_git_moved_is_told(at: Layout) -> None:
    git(at.root, "commit", "--quiet", "--allow-empty", "-m", "by hand")
    with pytest.raises(RepoError, match="main moved since, by something other than mvc") as refused:
        undo.undo(at)
    assert "git reflog show main" in refused.value.hint


def test_refused_and_nothing_changed(at: Layout) -> None:
    for name, words in {"ffffffff": "no operation ffffffff", "": "nothing is before it"}.items():
        first = list(oplog.entries(at))[-1].id
        with pytest.raises(RepoError, match=words):
            undo.undo(at, name or first)
    adapter = at.state / "adapter_model.safetensors"
    adapter.unlink()
    adapter.write_bytes(b"mine")
    before = seen(at)
    with pytest.raises(RepoError, match=r"adapter_model.safetensors: changed, and stored nowhere"):
        undo.undo(at)
    assert seen(at) == before
    snapshot.snapshot(at, now=NOW)
    undo.undo(at)  # moves no file, so what is in the workspace is in nobody's way
    assert seen(at) == before


def test_beside_a_daemon_only_what_leaves_its_line_alone(at: Layout) -> None:
    with Line(at, "mvc watch inbox"):
        before = seen(at)
        with pytest.raises(LockHeld, match="mvc watch"):
            undo.undo(at)
        snapshot.snapshot(at, now=NOW)
        undo.undo(at)
        assert seen(at) == before


def test_a_push_is_final_and_what_it_sent_comes_back_with_a_pull(tmp_path: Path) -> None:
    at = lines.shared_line(tmp_path)
    with pytest.raises(RepoError, match="others may have what origin got") as refused:
        undo.undo(at)
    last = list(oplog.entries(at))[1]
    assert f"`mvc undo {last.id}` takes back what came before it, here" in refused.value.hint
    heard, after = Heard(), seen(at)
    undo.undo(at, last.id, progress=heard)
    assert heard.notes[0].startswith("origin/main has it: a pull brings it back")
    push.push(at)  # nothing to send, so no operation
    assert "remote" not in oplog.find(at).extra
    pull.pull(at)
    assert seen(at) == after


def test_a_pull_with_a_kept_line(tmp_path: Path) -> None:
    at = lines.shared_line(tmp_path)
    other = lines.cloned(tmp_path, "b")
    commit(other, 5)
    push.push(other)
    train(at, 4)
    before = seen(at)
    pull.pull(at, keep_as="mine")
    after = seen(at)
    assert oplog.find(at).refs.keys() == {"refs/heads/main", "refs/heads/mine"}
    undo.undo(at)
    assert seen(at) == before
    undo.undo(at)
    assert seen(at) == after
    checkout.checkout(at, "mine")
    taken = list(oplog.entries(at))[1].id
    with pytest.raises(RepoError, match="HEAD would be on branch mine") as refused:
        undo.undo(at, taken)
    assert "mvc checkout main" in refused.value.hint
    commit(at, 6)
    with pytest.raises(RepoError, match="mine moved since"):
        undo.undo(at, taken)


def lose(at: Layout, data: bytes) -> None:
    """Remove an object from the cache."""
    md5 = hashlib.md5(data).hexdigest()
    (at.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).unlink()


def test_a_state_that_is_not_here_is_fetched_or_named(tmp_path: Path) -> None:
    at = lines.shared_line(tmp_path)
    before = seen(at)
    train(at, 3)
    lose(at, lines.state_of(2, tmp_path)["optimizer.pt"])
    undo.undo(at)
    assert seen(at) == before


def test_a_state_that_is_nowhere_is_named(at: Layout) -> None:
    train(at, 3)
    after, logged = seen(at), at.oplog.read_bytes()
    lose(at, lines.state_of(2, at.root.parent)["optimizer.pt"])
    with pytest.raises(ObjectMissing, match=r"optimizer\.pt"):
        undo.undo(at)
    assert (seen(at), at.oplog.read_bytes()) == (after, logged)


def test_a_gc_comes_back_from_its_trash(at: Layout) -> None:
    for seed in range(3, 6):
        train(at, seed)
    settings = config.load(at)
    rules = msgspec.structs.replace(settings, keep=KeepSettings(last=1, undo=1))
    cache = at.root / ".dvc" / "cache" / "files"
    before, objects = seen(at), content(cache)
    done = gc.gc(at, apply=True, settings=rules)
    num_gone = len(objects) - len(content(cache))
    assert num_gone > 0
    assert done.trash
    collected = oplog.find(at)
    assert collected.extra == {"trash": done.trash}
    result = undo.undo(at)
    assert result.num_restored == num_gone
    assert content(cache) == objects
    assert seen(at) == before
    with pytest.raises(RepoError, match="brought back what a gc had deleted") as refused:
        undo.undo(at)
    assert "mvc gc --apply" in refused.value.hint


def test_a_remote_that_was_added_goes_whole(at: Layout, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", str(tmp_path / "hub.git"))
    url, data = str(tmp_path / "hub.git"), str(tmp_path / "store")
    before, config_before = seen(at), (at.root / ".dvc" / "config").read_bytes()
    remote.add(at, "origin", url, data, now=NOW)
    heard = Heard()
    undo.undo(at, progress=heard)
    assert seen(at) == before and (at.root / ".dvc" / "config").read_bytes() == config_before
    assert remote.remote(at) == [] and git(at.root, "remote") == ""
    assert "origin" not in (at.root / ".dvc" / "config.local").read_text()
    assert "`mvc remote add origin --git URL --data URL` sets it again" in heard.notes[0]
    remote.add(at, "origin", url, data, now=NOW)
    push.push(at)
    remote.remove(at, "origin", now=NOW)
    heard = Heard()
    undo.undo(at, progress=heard)
    assert heard.notes[0].startswith("clones know remote origin again; for this machine, `mvc rem")
    remote.add(at, "origin", url, data, now=NOW)
    push.push(at)


def test_mvc_toml_goes_back_too_and_that_is_told(at: Layout) -> None:
    text = at.config.read_text()
    edit(at, "train.learning_rate=5e-3")
    git(at.root, "commit", "--quiet", "-am", "Halve the rate")
    git(at.root, "switch", "--quiet", "--detach", "@~1")
    checkout.checkout(at, "main")
    heard = Heard()
    undo.undo(at, progress=heard)
    assert at.config.read_text() == text
    assert heard.notes[0].startswith("mvc.toml is as it was before, too; `git show ")


def test_the_log_names_the_commits(at: Layout) -> None:
    train(at, 3)
    undo.undo(at)
    newest, before, *_ = ops.ops(at, 2)
    assert len(ops.ops(at, 2)) == 2
    assert len(ops.ops(at)) == 5
    move = newest.operation.refs["refs/heads/main"]
    assert [newest.commits[sha or ""].batch for sha in move] == [3, 2]
    assert before.operation.command == "mvc train day-3.jsonl"


def test_the_command_line(at: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: str) -> tuple[int, str, str]:
        status = main.run(["-C", str(at.root), *args])
        return (status, *capsys.readouterr())

    train(at, 3)
    trained = oplog.find(at)
    status, out, err = run("undo")
    assert (status, err) == (0, "")
    lines_ = out.splitlines()
    assert lines_[0] == f"Took back {trained.id}: mvc train day-3.jsonl"
    assert lines_[1] == "  main @3 → @2"
    assert lines_[-1] == "  `mvc undo` brings it again"
    undone = oplog.find(at)
    status, out, err = run("ops", "-n", "2")
    assert (status, err) == (0, "")
    told = [" ".join(line.split()) for line in out.splitlines()]
    assert told == [
        f"{undone.id} just now mvc undo {trained.id} main @3 → @2, takes back {trained.id}",
        f"{trained.id} just now mvc train day-3.jsonl main @2 → @3",
    ]
    found = json.loads(run("ops", "--json")[1])
    assert [each["id"] for each in found[:2]] == [undone.id, trained.id]
    assert found[0]["undoes"] == trained.id
    assert found[1]["refs"]["refs/heads/main"]["before"] == found[0]["commit"]["after"]
    answer = json.loads(run("undo", undone.id[:5], "--json")[1])
    assert answer["undone"] == undone.id
    assert answer["commit"]["batch"] == 3
    status, out, err = run("undo", "nonsense")
    assert (status, out) == (1, "")
    assert "there is no operation nonsense" in err
    assert "`mvc ops` lists them" in err
