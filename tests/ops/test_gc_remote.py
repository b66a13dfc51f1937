"""`mvc gc --remote`: objects go there only when no ref over there needs them any more."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mvc.cli import main
from mvc.errors import ObjectMissing, RepoError
from mvc.ops import checkout, fetch, fsck, gc, log, pull, push, remote, snapshot, undo
from mvc.store import collected, oplog, transfer
from mvc.store.layout import Layout
from tests.ops import lines
from tests.ops.keeping import NOW, collect, rules, states
from tests.ops.lines import content, git, new_line, shared_line, state_of
from tests.ops.places import Place, s3, server, sshd

__all__ = ["s3", "server", "sshd"]


def there(folder: Path) -> set[str]:
    base = folder / "store" / "files" / "md5"
    return {"".join(path.relative_to(base).parts) for path in base.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    shared_line(folder, 5)
    return folder


@pytest.fixture
def shared(template: Path, tmp_path: Path) -> Layout:
    """Five batches, pushed; the remote's folders are this test's own."""
    subprocess.run(["cp", "-a", f"{template}/.", tmp_path], check=True)
    at = Layout(tmp_path / "a")
    for name in (".dvc/config", ".dvc/config.local", ".git/config"):
        file = at.root / name
        if file.exists():
            file.write_text(file.read_text().replace(str(template), str(tmp_path)))
    git(at.root, "commit", "-qam", "the remote moved")
    push.push(at)
    return at


def numbers(plan: Any, at: Layout) -> dict[int | None, str]:
    by_hash = {each.commit: each.batch for each in log.log(at, "main")}
    return {by_hash[commit]: state for commit, state in plan.remotes[0].commits}


def test_the_same_commits_go_from_both_sides(shared: Layout, tmp_path: Path) -> None:
    before = there(tmp_path)
    plan = gc.gc(
        shared, settings=rules(shared, {"last": 1}, last=2), remotes=["origin"], now=NOW
    ).plan
    assert there(tmp_path) == before
    assert numbers(plan, shared) == {4: "thin", 3: "absent", 2: "absent", 1: "absent", 0: "absent"}
    share = collect(shared, {"last": 1}, thin={"last": 2}, remotes=["origin"]).plan.remotes[0]
    assert share.num_bytes == plan.remotes[0].num_bytes > 5 * lines.ADAPTER
    assert share.num_unique_bytes == 0 and len(before - there(tmp_path)) == share.num_objects
    assert not fsck.fsck(shared, remote="origin").findings
    again = collect(shared, {"last": 1}, thin={"last": 2}, remotes=["origin"]).plan
    assert not again.rows and not again.remotes[0].num_objects


def test_real_servers_give_up_the_same_and_keep_the_rest(server: Place, tmp_path: Path) -> None:
    at = new_line(tmp_path / "a", 4)
    server.share(at)
    before = server.held.all().keys()
    share = collect(at, {"last": 1}, thin={"last": 2}, remotes=["origin"]).plan.remotes[0]
    after = server.held.all()
    assert len(before - after.keys()) == share.num_objects > 5
    for name, data in after.items():
        assert hashlib.md5(data).hexdigest() == name.removesuffix(".dir")
    assert not fsck.fsck(at, remote="origin").findings
    fresh = server.cloned(tmp_path / "fresh")
    assert content(fresh.state) == state_of(4, tmp_path)
    checkout.checkout(fresh, "@3")
    assert not (fresh.state / "optimizer.pt").exists()
    with pytest.raises(ObjectMissing, match="gave up"):
        checkout.checkout(fresh, "@2")
    # `mvc gc --restore` brings the trash back here, and a push makes the server whole again
    gc.restore(at)
    push.push(at, all_states=True)
    assert server.held.all().keys() >= before
    assert server.whole() >= 5  # and the records of what went


def test_undo_of_a_gc_here_and_there_says_what_the_remote_lacks(
    shared: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = there(tmp_path)
    collect(shared, {"last": 1}, remotes=["origin"])
    assert oplog.find(shared).extra["deleted"] == "origin"
    assert main.run(["-C", str(shared.root), "undo"]) == 0
    out = capsys.readouterr().out
    assert "  origin still lacks the states of 5 commits: `mvc push --all origin` sends" in out
    assert set(states(shared).values()) == {"whole"} and there(tmp_path) < before
    push.push(shared, "origin", all_states=True)
    fetch.fetch(shared)
    assert there(tmp_path) == before and not collected.read(shared, "origin")


def test_a_gc_that_deletes_on_the_remote_alone_is_an_operation(shared: Layout) -> None:
    collect(shared, {"last": 1}, thin={"last": 9})
    lines.commit(shared, 20)
    trained, head = oplog.find(shared), git(shared.root, "rev-parse", "HEAD")
    plan = collect(shared, {"last": 1}, thin={"last": 9}, remotes=["origin"]).plan
    assert plan.remotes[0].num_objects and not plan.num_objects
    assert oplog.find(shared).extra == {"deleted": "origin"}
    with pytest.raises(RepoError, match="what it deleted on origin rests in no trash") as refused:
        undo.undo(shared)
    assert refused.value.hint == (
        "`mvc push --all origin` sends there what is here; "
        f"`mvc undo {trained.id}` takes back what came before it, here"
    )
    assert git(shared.root, "rev-parse", "HEAD") == head
    undo.undo(shared, trained.id)


def test_another_clone_knows_what_is_gone(shared: Layout, tmp_path: Path) -> None:
    old = lines.cloned(tmp_path, "old")
    collect(shared, {"last": 1}, thin={"last": 2}, remotes=["origin"])
    new = lines.cloned(tmp_path, "new")
    for clone in (new, old):
        fetch.fetch(clone, all_states=True)
        assert {n for n, state in states(clone).items() if state == "absent"} >= {0, 1, 2, 3}
        assert not fsck.fsck(clone, remote="origin").findings
        thin = next(c.commit for c in log.log(clone, "main") if c.batch == 4)
        checkout.checkout(clone, thin)
        assert (
            content(clone.state)["adapter_model.safetensors"]
            == state_of(4, tmp_path)["adapter_model.safetensors"]
        )
        assert not (clone.state / "optimizer.pt").exists()
        gone = next(c.commit for c in log.log(clone, "main") if c.batch == 2)
        with pytest.raises(ObjectMissing, match="gave up"):
            checkout.checkout(clone, gone)
        checkout.checkout(clone, "main")
        assert content(clone.state) == state_of(5, tmp_path)


def test_what_another_clone_s_refs_name_stays(shared: Layout, tmp_path: Path) -> None:
    other = lines.cloned(tmp_path, "b")
    checkout.checkout(other, "@2")
    snapshot.snapshot(other, now=NOW)
    lines.commit(other, 20)  # on a branch of its own, `from-x`
    push.push(other)
    git(other.root, "tag", "release-1", "HEAD~2")
    git(other.root, "push", "-q", "origin", "release-1")
    plan = collect(shared, {"last": 1}, remotes=["origin"]).plan
    kept = {k.commit.batch: k.reasons for k in plan.kept}
    assert kept[2] == (f"snapshot {NOW:%Y-%m-%d}",)
    assert kept[1] == ("tag release-1",)
    fresh = lines.cloned(tmp_path, "c")
    fetch.fetch(fresh, all_states=True)
    for rev, seed in (("origin/from-x", 20), (f"{NOW:%Y-%m-%d}", 2), ("@1", 1), ("main", 5)):
        checkout.checkout(fresh, rev)
        assert content(fresh.state) == state_of(seed, tmp_path)


def test_a_push_half_way_is_not_disturbed(shared: Layout, tmp_path: Path) -> None:
    """Objects that no ref names over there may be somebody's push, who sends refs last."""
    other = lines.cloned(tmp_path, "b")
    lines.commit(other, 30)
    from mvc.store import manifest

    new = manifest.objects(other, [git(other.root, "rev-parse", "HEAD")])
    transfer.push(other, "origin", [(each.md5, each.size_bytes) for each in new])
    collect(shared, {"last": 1}, remotes=["origin"])
    push.push(other)
    pull.pull(shared)
    assert content(shared.state) == state_of(30, tmp_path)


def test_a_push_that_counted_on_what_goes_is_mended(
    shared: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag on an old state comes to the remote just while that state is deleted there."""
    other = lines.cloned(tmp_path, "b")
    real = transfer.remove
    old = next(c.commit for c in log.log(other) if c.batch == 2)

    def remove(*args: Any) -> None:
        real(*args)
        git(other.root, "branch", "-f", "late", old)
        git(other.root, "push", "-q", "origin", "late")

    monkeypatch.setattr(transfer, "remove", remove)
    collect(shared, {"last": 1}, remotes=["origin"])
    fresh = lines.cloned(tmp_path, "c")
    checkout.checkout(fresh, "origin/late")
    assert content(fresh.state) == state_of(2, tmp_path)


def test_what_only_the_remote_has_is_told_and_goes(shared: Layout, tmp_path: Path) -> None:
    small = lines.cloned(tmp_path, "b")  # with the newest state alone
    plan = gc.gc(small, settings=rules(small, {"last": 1}), remotes=["origin"], now=NOW).plan
    share = plan.remotes[0]
    assert 0 < share.num_unique_bytes <= share.num_bytes and not plan.rows
    collect(small, {"last": 1}, remotes=["origin"])
    plan = gc.gc(small, settings=rules(small, {"last": 1}), remotes=["origin"], now=NOW).plan
    assert not plan.remotes[0].num_objects
    # where they still are, they can be sent again, and then they are whole for everybody
    push.push(shared, all_states=True)
    fetch.fetch(shared)
    assert not collected.read(shared, "origin")
    fresh = lines.cloned(tmp_path, "c")
    checkout.checkout(fresh, "@3")
    assert content(fresh.state) == state_of(3, tmp_path)


def test_what_another_remote_only_promises_stays_on_both_sides(
    shared: Layout, tmp_path: Path
) -> None:
    """`backup` got the commits by a plain `git push`, without objects but those of the head."""
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(tmp_path / "hub2.git"))
    remote.add(shared, "backup", str(tmp_path / "hub2.git"), str(tmp_path / "store2"), now=NOW)
    push.push(shared, "origin")
    git(shared.root, "push", "-q", "backup", "main")
    git(shared.root, "fetch", "-q", "backup")
    before = there(tmp_path)
    plan = gc.gc(shared, settings=rules(shared, {"last": 1}), remotes=["origin"], now=NOW).plan
    done = collect(shared, {"last": 1}, remotes=["origin"]).plan
    for each in (plan, done):
        assert not each.remotes[0].num_objects and not each.num_objects
        assert {k.commit.batch for k in each.kept if "not pushed" in k.reasons} >= {1, 2, 3, 4}
    assert there(tmp_path) == before and set(states(shared).values()) == {"whole"}
    push.push(shared, "backup", all_states=True)
    assert collect(shared, {"last": 1}, remotes=["origin"]).plan.remotes[0].num_objects
    checkout.checkout(shared, "@2")  # from the backup
    assert content(shared.state) == state_of(2, tmp_path)


def test_plain_dvc_pulls_the_files_of_a_thinned_commit_by_name(
    shared: Layout, tmp_path: Path
) -> None:
    thin = lines.commit(shared, 6)  # a commit that knows the remote
    lines.commit(shared, 7)
    push.push(shared)
    collect(shared, {"last": 1}, thin={"last": 2}, remotes=["origin"])
    plain = tmp_path / "plain"
    git(tmp_path, "clone", "-q", str(tmp_path / "hub.git"), str(plain))
    git(plain, "checkout", "-q", thin)
    names = ("adapter_model.safetensors", "adapter_config.json")
    lines.dvc(plain, "pull", *(f"current_model/{name}" for name in names))
    expected = state_of(6, tmp_path)
    assert content(plain / "current_model") == {name: expected[name] for name in names}


def test_a_remote_of_objects_alone_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mvc.errors import RemoteError

    at = lines.new_line(tmp_path / "m", 1)
    lines.dvc(at.root, "remote", "add", "data", str(tmp_path / "d"))
    with pytest.raises(RemoteError, match="no git half"):
        gc.gc(at, remotes=["data"], settings=rules(at, {"last": 1}))
    assert remote.remote(at)
