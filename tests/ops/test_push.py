"""`mvc push`: objects first, refs after them, nothing lost when two push at once."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from mvc.cli import main
from mvc.errors import Diverged, ObjectCorrupt, RemoteError, RepoError
from mvc.ops import pull, push, remote, snapshot, status
from mvc.store import objects, pointers, tracked
from mvc.store.layout import Layout
from tests.killing import moments, run_and_kill, spread
from tests.ops.lines import (
    cloned,
    commit,
    content,
    dvc,
    git,
    new_line,
    share,
    shared_line,
    state_of,
    whole,
)


def size(folder: Path) -> int:
    return sum(len(data) for data in content(folder).values())


def hub(folder: Path) -> Path:
    return folder / "hub.git"


def main_of(folder: Path) -> str:
    return git(hub(folder), "rev-parse", "main")


def test_a_push_sends_all_that_a_stranger_needs(tmp_path: Path) -> None:
    at = new_line(tmp_path / "a")
    pin = snapshot.snapshot(at, "a good day")
    share(at, tmp_path)
    assert whole(tmp_path / "store", hub(tmp_path)) == 4
    assert main_of(tmp_path) == git(at.root, "rev-parse", "HEAD")
    assert git(hub(tmp_path), "tag") == pin.tag
    assert status.status(at).unpushed == 0
    again = push.push(at)
    assert (again.commits, again.snapshots, again.objects.num_objects) == ((), (), 0)


def test_only_what_is_new_travels_and_no_more_than_dvc_sends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Must-show 7: the bytes of a push after one batch."""
    at = shared_line(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "store", other)
    before = size(tmp_path / "store")
    commit(at, 3)
    on_disk = size(at.state) + size(at.batch)
    result = push.push(at)
    ours = size(tmp_path / "store") - before
    dvc(at.root, "remote", "add", "-q", "--local", "other", str(other))
    dvc(at.root, "push", "-q", "-r", "other")
    plain = size(other) - before
    with capsys.disabled():
        print(
            f"\npush after one batch: {ours:,} bytes; dvc push: {plain:,}; "
            f"state and batch on disk: {on_disk:,}"
        )
    assert result.objects.num_bytes == ours == plain
    assert len(result.commits) == 1
    # tokenizer and configuration were there; only the two lists of files come on top
    same = ("tokenizer.json", "adapter_config.json", "optimizer_parameters.json")
    lists = ours - (on_disk - sum((at.state / name).stat().st_size for name in same))
    assert 0 < lists < 2000


def test_every_commit_between_goes_with_its_objects(tmp_path: Path) -> None:
    at = shared_line(tmp_path)
    for seed in (3, 4, 5):
        commit(at, seed)
    result = push.push(at)
    assert [each.batch for each in result.commits] == [5, 4, 3]
    assert whole(tmp_path / "store", hub(tmp_path)) == 7


def test_a_pin_off_the_branch_goes_with_its_objects(tmp_path: Path) -> None:
    at = shared_line(tmp_path)
    git(at.root, "switch", "-q", "-c", "side")
    commit(at, 7)
    pin = snapshot.snapshot(at)
    git(at.root, "switch", "-q", "main")
    dvc(at.root, "checkout")
    result = push.push(at)
    assert result.snapshots == (pin.tag,)
    assert git(hub(tmp_path), "branch", "--format=%(refname:short)") == "main"
    assert whole(tmp_path / "store", hub(tmp_path)) == 5


def test_an_object_that_is_damaged_here_stops_the_push_before_any_ref(tmp_path: Path) -> None:
    at = shared_line(tmp_path)
    before = main_of(tmp_path)
    commit(at, 3)
    _, head = tracked.head(at.root)
    assert head
    (state, _) = tracked.pointers_of(at.root, head)
    md5 = {path: md5 for path, md5, _ in pointers.entries(at, state)}["optimizer.pt"]
    path = objects.object_path(objects.cache_folder(at), md5)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(ObjectCorrupt, match=md5):
        push.push(at)
    assert main_of(tmp_path) == before
    assert not (tmp_path / "store" / "files" / "md5" / md5[:2] / md5[2:]).exists()


def test_after_a_plain_git_push_the_objects_follow(tmp_path: Path) -> None:
    at = shared_line(tmp_path)
    commit(at, 3)
    commit(at, 4)
    git(at.root, "push", "-q", "origin", "main")
    with pytest.raises(FileNotFoundError):
        whole(tmp_path / "store", hub(tmp_path))
    assert push.push(at).objects.num_objects > 0  # of HEAD
    assert push.push(at, all_states=True).objects.num_objects > 0  # of the one before
    assert whole(tmp_path / "store", hub(tmp_path)) == 6


def test_both_sides_trained(tmp_path: Path) -> None:
    """The loser is told what the other side has, who made it, and the ways out."""
    a = shared_line(tmp_path)
    b = cloned(tmp_path, "b")
    base = git(a.root, "rev-parse", "HEAD")
    theirs = commit(a, 3, "thursday.jsonl")
    push.push(a)
    mine = commit(b, 4, "friday.jsonl")
    commit(b, 5, "saturday.jsonl")
    before, stored = main_of(tmp_path), size(tmp_path / "store")
    with pytest.raises(Diverged) as caught:
        push.push(b)
    told = caught.value.message
    assert f"went on from the same commit, {base[:7]}" in told
    assert "here: 2 commits" in told
    assert "on origin: 1 commit" in told
    for words in ("saturday.jsonl", "friday.jsonl", "thursday.jsonl", "Ada", mine[:7], theirs[:7]):
        assert words in told
    first = told.splitlines()[2]  # side by side
    assert first.index("saturday.jsonl") < first.index("thursday.jsonl")
    assert "`mvc pull --keep-as mine`" in caught.value.hint
    assert "`git switch -c mine`" in caught.value.hint
    assert (main_of(tmp_path), size(tmp_path / "store")) == (before, stored)
    # the way out that shares both lines
    git(b.root, "switch", "-q", "-c", "mine")
    assert push.push(b).branch == "mine"
    assert whole(tmp_path / "store", hub(tmp_path)) == 7


def test_a_push_of_what_the_remote_is_ahead_of_says_so(tmp_path: Path) -> None:
    a = shared_line(tmp_path)
    b = cloned(tmp_path, "b")
    commit(a, 3)
    push.push(a)
    result = push.push(b)
    assert (result.behind, result.commits) == (1, ())


def test_a_day_that_both_pinned_is_told_and_does_not_hold_up_the_branch(tmp_path: Path) -> None:
    a = shared_line(tmp_path)
    b = cloned(tmp_path, "b")
    pin = snapshot.snapshot(a)
    push.push(a)
    commit(b, 3)
    snapshot.snapshot(b)
    result = push.push(b)
    assert result.differing == (pin.tag,)
    assert main_of(tmp_path) == git(b.root, "rev-parse", "HEAD")
    assert git(hub(tmp_path), "rev-parse", pin.tag) == git(a.root, "rev-parse", pin.tag)


def _race(at: Layout, barrier: object, told: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        result = push.push(at)
        told.put((at.root.name, "pushed", len(result.commits)))  # type: ignore[attr-defined]
    except Diverged as error:
        told.put((at.root.name, "lost", error.message + error.hint))  # type: ignore[attr-defined]


def test_two_machines_race(tmp_path: Path) -> None:
    """Must-show 6: ten rounds of simultaneous pushes; the loser takes the offered way out."""
    a = shared_line(tmp_path, 1)
    b = cloned(tmp_path, "b")
    fork = multiprocessing.get_context("fork")
    made = set()
    for number in range(10):
        made |= {commit(a, 10 + number), commit(b, 30 + number)}
        barrier, told = fork.Barrier(2), fork.Queue()
        both = [fork.Process(target=_race, args=(at, barrier, told)) for at in (a, b)]
        for each in both:
            each.start()
        answers = [told.get(timeout=120) for _ in both]
        for each in both:
            each.join()
        outcomes = {name: (what, said) for name, what, said in answers}
        assert sorted(what for what, _ in outcomes.values()) == ["lost", "pushed"]
        loser = next(at for at in (a, b) if outcomes[at.root.name][0] == "lost")
        assert "`mvc pull --keep-as mine`" in outcomes[loser.root.name][1]
        assert whole(tmp_path / "store", hub(tmp_path))
        kept = pull.pull(loser, keep_as=f"mine-{number}")
        assert kept.kept_as == f"mine-{number}"
        git(loser.root, "switch", "-q", f"mine-{number}")
        push.push(loser)
        git(loser.root, "switch", "-q", "main")
        assert main_of(tmp_path) == git(a.root, "rev-parse", "main")
        assert main_of(tmp_path) == git(b.root, "rev-parse", "main")
    assert made <= set(git(hub(tmp_path), "rev-list", "--all").split())
    assert whole(tmp_path / "store", hub(tmp_path))


@pytest.mark.slow
def test_killed_at_any_moment_a_push_promises_nothing_and_the_next_completes(
    tmp_path: Path,
) -> None:
    at = shared_line(tmp_path)
    # the server does not die with its client
    git(at.root, "config", "remote.origin.receivepack", "setsid git-receive-pack")
    commit(at, 3)
    snapshot.snapshot(at)
    parts = {name: tmp_path / name for name in ("a", "hub.git", "store")}
    for name, path in parts.items():
        shutil.copytree(path, tmp_path / "safe" / name, symlinks=True)

    def restore() -> None:
        for name, path in parts.items():
            shutil.rmtree(path)
            shutil.copytree(tmp_path / "safe" / name, path, symlinks=True)

    count = len(moments(lambda: push.push(at)))
    for nth in spread(count, 20):
        restore()
        run_and_kill(lambda: push.push(at), nth)
        assert whole(tmp_path / "store", hub(tmp_path)) >= 4
        push.push(at)
        assert main_of(tmp_path) == git(at.root, "rev-parse", "HEAD")
        assert git(hub(tmp_path), "tag")
        assert whole(tmp_path / "store", hub(tmp_path)) == 5
    later = cloned(tmp_path, "later")
    assert content(later.state) == state_of(3, tmp_path)


def test_what_cannot_be_pushed_is_told(tmp_path: Path) -> None:
    at = new_line(tmp_path / "a", 1)
    with pytest.raises(RemoteError) as caught:
        push.push(at)
    assert "mvc remote add" in caught.value.hint
    git(at.root, "remote", "add", "origin", str(tmp_path / "nothing.git"))
    with pytest.raises(RemoteError, match="origin has no DVC half"):
        push.push(at)
    remote.add(at, "far", str(tmp_path / "gone.git"), str(tmp_path / "store"))
    with pytest.raises(RemoteError, match="far cannot be used"):
        push.push(at, "far")
    git(at.root, "checkout", "-q", "--detach")
    with pytest.raises(RepoError, match="HEAD is on no branch"):
        push.push(at, "far")


def test_adding_a_remote_is_one_small_commit_that_every_clone_has(tmp_path: Path) -> None:
    at = new_line(tmp_path / "a", 1)
    state = content(at.state)
    remote.add(at, "far", "ssh://ada@example.org/model.git", str(tmp_path / "store"))
    assert git(at.root, "show", "--format=%s", "--name-only") == "Add remote far\n\n.dvc/config"
    assert git(at.root, "status", "--porcelain") == ""
    assert content(at.state) == state
    before = git(at.root, "rev-parse", "HEAD")
    remote.add(at, "far", "ssh://ada@example.org/model.git", str(tmp_path / "store"))
    assert git(at.root, "rev-parse", "HEAD") == before
    (told,) = remote.remote(at)
    assert (told.name, told.data_url, told.default) == ("far", str(tmp_path / "store"), True)
    remote.remove(at, "far")
    assert git(at.root, "log", "-1", "--format=%s") == "Remove remote far"
    assert remote.remote(at) == []


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mvc(*args: str, status: int = 0) -> str:
        assert main.run(list(args)) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    at = new_line(tmp_path / "a", 1)
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(hub(tmp_path)))
    monkeypatch.chdir(at.root)
    places = ("--git", str(hub(tmp_path)), "--data", str(tmp_path / "store"))
    assert "Added remote origin" in mvc("remote", "add", "origin", *places)
    assert str(tmp_path / "store") in mvc("remote")
    assert json.loads(mvc("remote", "--json"))[0]["default"] is True
    said = mvc("push")
    assert "Pushed 3 commits of main to origin" in said
    assert "day-1.jsonl" in said
    assert "origin has main already" in mvc("push")
    told = json.loads(mvc("push", "--json"))
    assert (told["branch"], told["commits"]) == ("main", [])
    said = mvc("remote", "add", "origin", *places, "--option", "password", status=2)
    assert "KEY=VALUE" in said
    assert "there is no remote 'nowhere'" in mvc("push", "nowhere", status=1)
    assert "Removed remote origin" in mvc("remote", "remove", "origin")


def test_a_hub_that_begins_anew_gets_all_again(tmp_path: Path) -> None:
    """What is remembered of the old one's branches is not believed."""
    at = shared_line(tmp_path)
    git(hub(tmp_path), "update-ref", "-d", "refs/heads/main")
    shutil.rmtree(tmp_path / "store")
    assert len(push.push(at).commits) == 4  # the start and its three batches
    assert whole(tmp_path / "store", hub(tmp_path)) == 4
