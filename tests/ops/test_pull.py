"""`mvc pull` and `mvc fetch`: the branch moves forward whole, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mvc.cli import main
from mvc.errors import Diverged, ObjectCorrupt, ObjectMissing, RemoteError, RepoError
from mvc.ops import checkout, fetch, pull, push, remote, rollback, snapshot, status
from mvc.store import objects, pointers, tracked
from mvc.store.layout import Layout
from tests.killing import moments, run_and_kill, spread
from tests.ops.conftest import train_one, write_batch
from tests.ops.lines import (
    INFERENCE,
    cloned,
    commit,
    content,
    dvc,
    git,
    share,
    shared_line,
    state_of,
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Layout, Layout]:
    """Clones a and b at the same commit, two batches on the line."""
    return shared_line(tmp_path), cloned(tmp_path, "b")


def head(at: Layout) -> str:
    return git(at.root, "rev-parse", "HEAD")


def assert_sound(at: Layout, seed: int, folder: Path) -> None:
    """HEAD's state is in place, and plain tools agree."""
    assert content(at.state) == state_of(seed, folder)
    assert git(at.root, "status", "--porcelain") == ""
    assert "up to date" in dvc(at.root, "status")
    assert status.status(at).state == "clean"


def test_a_pull_brings_commits_state_data_and_pins(
    pair: tuple[Layout, Layout], tmp_path: Path
) -> None:
    a, b = pair
    commit(a, 3)
    commit(a, 4)
    pin = snapshot.snapshot(a)
    push.push(a)
    result = pull.pull(b)
    assert [each.batch for each in result.commits] == [4, 3]
    assert (result.snapshots, result.partial, result.kept_as) == ((pin.tag,), False, None)
    assert head(b) == head(a)
    assert content(b.batch) == content(a.batch)
    assert_sound(b, 4, tmp_path)
    again = pull.pull(b)
    assert (again.commits, again.num_files_changed, again.objects.num_objects) == ((), 0, 0)
    assert status.status(b).unpushed == 0


def test_plain_git_and_dvc_share_with_mvc_in_both_directions(
    pair: tuple[Layout, Layout], tmp_path: Path
) -> None:
    """Must-show 2."""
    a, b = pair
    git(tmp_path, "clone", "-q", str(tmp_path / "hub.git"), "plain")
    plain = tmp_path / "plain"
    dvc(plain, "pull")
    assert content(plain / "current_model") == state_of(2, tmp_path)
    assert content(plain / "batch") == content(a.batch)
    commit(b, 3)
    dvc(b.root, "push")
    git(b.root, "push", "-q", "origin", "main")
    assert pull.pull(a).commits[0].batch == 3
    assert_sound(a, 3, tmp_path)


def test_both_sides_trained(pair: tuple[Layout, Layout], tmp_path: Path) -> None:
    a, b = pair
    theirs = commit(a, 3)
    push.push(a)
    mine = commit(b, 4)
    with pytest.raises(Diverged, match="both went on from the same commit"):
        pull.pull(b)
    assert head(b) == mine
    assert_sound(b, 4, tmp_path)
    git(b.root, "branch", "taken", "HEAD~1")
    for name in ("taken", "a..b", "-x", "main", "HEAD"):
        with pytest.raises(RepoError):
            pull.pull(b, keep_as=name)
        assert head(b) == mine
    result = pull.pull(b, keep_as="mine")
    assert (result.kept_as, result.head.commit) == ("mine", theirs)
    assert git(b.root, "rev-parse", "mine") == mine
    assert_sound(b, 3, tmp_path)
    checkout.checkout(b, "mine")
    assert_sound(b, 4, tmp_path)
    assert push.push(b).branch == "mine"


def test_two_repos_without_a_common_commit(pair: tuple[Layout, Layout], tmp_path: Path) -> None:
    _, b = pair
    (tmp_path / "else").mkdir()
    shared_line(tmp_path / "else", 1, base="another")
    git(b.root, "remote", "set-url", "origin", str(tmp_path / "else" / "hub.git"))
    commit(b, 9)
    with pytest.raises(Diverged, match="no commit in common"):
        pull.pull(b)


def test_what_the_workspace_holds_is_not_lost(pair: tuple[Layout, Layout], tmp_path: Path) -> None:
    a, b = pair
    commit(a, 3)
    a.config.write_text(a.config.read_text() + "\n# theirs\n")
    git(a.root, "commit", "-qam", "words")
    push.push(a)
    before = head(b)
    (b.state / "notes.txt").write_text("mine")
    with pytest.raises(RepoError, match=r"notes\.txt"):
        pull.pull(b)
    (b.state / "notes.txt").unlink()
    b.config.write_text(b.config.read_text() + "\n# mine\n")
    with pytest.raises(RepoError, match=r"mvc\.toml"):
        pull.pull(b)
    assert head(b) == before
    assert content(b.state) == state_of(2, tmp_path)
    git(b.root, "checkout", "-q", "mvc.toml")
    pull.pull(b)
    assert_sound(b, 3, tmp_path)


def test_fetch_moves_nothing(pair: tuple[Layout, Layout], tmp_path: Path) -> None:
    a, b = pair
    commit(a, 3)
    push.push(a)
    before = head(b)
    result = fetch.fetch(b)
    assert ([each.batch for each in result.commits], result.ahead) == ([3], 0)
    assert result.objects.num_objects > 0
    assert head(b) == before
    assert_sound(b, 2, tmp_path)
    shutil.rmtree(tmp_path / "store")
    assert pull.pull(b).objects.num_objects == 0  # all is here
    assert_sound(b, 3, tmp_path)


def test_only_what_inference_needs_and_later_the_rest(
    pair: tuple[Layout, Layout], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Must-show 7, `--adapter-only`: its bytes against those of the whole state."""
    a, b = pair
    commit(a, 3)
    push.push(a)
    c = cloned(tmp_path, "c", adapter_only=True)
    assert content(c.state) == {n: d for n, d in state_of(3, tmp_path).items() if n in INFERENCE}
    assert not c.batch.exists()
    assert status.status(c).state == "partial"
    part = pull.pull(b, adapter_only=True)
    assert part.partial
    # the one file of training whose content b had already
    assert set(content(b.state)) == INFERENCE | {"optimizer_parameters.json"}
    sizes = {name: len(data) for name, data in state_of(3, tmp_path).items()}
    lists = 2000
    with capsys.disabled():
        adapter = sizes["adapter_model.safetensors"]
        print(
            f"\npull --adapter-only: {part.objects.num_bytes:,} bytes; adapter on disk: "
            f"{adapter:,}; whole state: {sum(sizes.values()):,}"
        )
    assert adapter < part.objects.num_bytes < adapter + lists
    rest = pull.pull(b)
    assert not rest.partial
    training = sum(size for name, size in sizes.items() if name not in INFERENCE)
    assert rest.objects.num_bytes >= training - sizes["optimizer_parameters.json"]
    assert content(b.batch) == content(a.batch)
    assert_sound(b, 3, tmp_path)
    dvc(c.root, "pull")  # plain DVC completes it too
    assert_sound(c, 3, tmp_path)


def test_a_state_without_its_moments_is_not_trained_from(trained: Layout, tmp_path: Path) -> None:
    """Real training: refused with the way out, and after that way it goes on."""
    share(trained, tmp_path)
    c = cloned(tmp_path, "c", adapter_only=True)
    more = write_batch(tmp_path / "more.jsonl", 40)
    with pytest.raises(ObjectMissing) as caught:
        train_one(c, more)
    assert "mvc pull" in caught.value.hint
    assert head(c) == head(trained)
    pull.pull(c)
    assert train_one(c, more).commit.batch == 4


def test_older_states_come_when_a_checkout_needs_them(
    pair: tuple[Layout, Layout], tmp_path: Path
) -> None:
    _, b = pair
    old = git(b.root, "rev-parse", "HEAD~2")
    assert any(pointers.missing(b, each) for each in tracked.pointers_of(b.root, old))
    checkout.checkout(b, "@1")
    assert_sound(b, 1, tmp_path)
    checkout.checkout(b, "main")
    assert_sound(b, 2, tmp_path)
    assert fetch.fetch(b, all_states=True).objects.num_objects > 0
    shutil.rmtree(tmp_path / "store")
    for commit_ in git(b.root, "rev-list", "main").split():
        assert not any(pointers.missing(b, each) for each in tracked.pointers_of(b.root, commit_))


def test_an_older_state_comes_when_a_rollback_needs_it(
    pair: tuple[Layout, Layout], tmp_path: Path
) -> None:
    _, b = pair
    rollback.rollback(b, "@1")
    assert_sound(b, 1, tmp_path)
    assert len(push.push(b).commits) == 1


def test_a_checkout_of_what_no_remote_has_touches_nothing(
    pair: tuple[Layout, Layout], tmp_path: Path
) -> None:
    _, b = pair
    shutil.rmtree(tmp_path / "store")
    before = head(b)
    for move in (checkout.checkout, rollback.rollback):
        with pytest.raises((ObjectMissing, RemoteError)):
            move(b, "@1")
    assert head(b) == before
    assert_sound(b, 2, tmp_path)


def test_a_pulled_commit_does_not_lead_this_machine_to_another_store(
    pair: tuple[Layout, Layout], tmp_path: Path
) -> None:
    """Its passwords would go along."""
    a, b = pair
    config = a.root / ".dvc" / "config"
    config.write_text(config.read_text().replace(str(tmp_path / "store"), str(tmp_path / "evil")))
    git(a.root, "commit", "-qam", "moved")
    git(a.root, "push", "-q", "origin", "main")
    pull.pull(b)
    assert "evil" in (b.root / ".dvc" / "config").read_text()
    (told,) = remote.remote(b)
    assert told.data_url == str(tmp_path / "store")
    commit(b, 5)
    push.push(b)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("how", ["flipped", "truncated", "gone"])
def test_the_branch_does_not_move_to_a_state_that_does_not_hold(
    pair: tuple[Layout, Layout], tmp_path: Path, how: str
) -> None:
    a, b = pair
    new = commit(a, 3)
    push.push(a)
    (state, _) = tracked.pointers_of(a.root, new)
    md5 = {path: md5 for path, md5, _ in pointers.entries(a, state)}["optimizer.pt"]
    stored = objects.object_path(tmp_path / "store" / "files" / "md5", md5)
    data = bytearray(stored.read_bytes())
    stored.chmod(0o644)
    if how == "gone":
        stored.unlink()
    elif how == "truncated":
        stored.write_bytes(data[:-1])
    else:
        data[0] ^= 1
        stored.write_bytes(data)
    before = head(b)
    with pytest.raises(ObjectMissing if how == "gone" else ObjectCorrupt) as caught:
        pull.pull(b)
    assert "current_model/optimizer.pt" in caught.value.message
    assert new[:10] in caught.value.message
    assert head(b) == before
    assert_sound(b, 2, tmp_path)
    push.push(a)
    if how != "flipped":  # DVC's protocols tell a size, not a hash
        pull.pull(b)
        assert_sound(b, 3, tmp_path)


@pytest.mark.slow
def test_killed_at_any_moment_a_pull_leaves_the_old_or_the_new(
    pair: tuple[Layout, Layout], tmp_path: Path
) -> None:
    """Must-show 3, the pull's half."""
    a, b = pair
    commit(a, 3)
    snapshot.snapshot(a)
    push.push(a)
    shutil.copytree(b.root, tmp_path / "safe", symlinks=True)

    def restore() -> None:
        shutil.rmtree(b.root)
        shutil.copytree(tmp_path / "safe", b.root, symlinks=True)

    # copies are no links any more: let the first, undisturbed run be one of such a copy
    restore()
    count = len(moments(lambda: pull.pull(b)))
    for nth in spread(count, 20):
        restore()
        run_and_kill(lambda: pull.pull(b), nth)
        for path in objects.cache_folder(b).glob("??/*"):  # nothing wrong under a right name
            assert pointers.verify_object(b, path.parent.name + path.name) is None
        pull.pull(b)
        assert head(b) == head(a)
        assert content(b.state) == state_of(3, tmp_path)
        assert git(b.root, "status", "--porcelain") == ""
        assert git(b.root, "tag") == git(a.root, "tag")
        assert not list(b.root.rglob(".mvc-*"))


def test_what_cannot_be_pulled_is_told(pair: tuple[Layout, Layout], tmp_path: Path) -> None:
    _, b = pair
    git(b.root, "switch", "-q", "-c", "side")
    with pytest.raises(RemoteError, match=r"origin has no branch side \(there: main\)"):
        pull.pull(b)
    git(b.root, "checkout", "-q", "--detach")
    with pytest.raises(RepoError, match="HEAD is on no branch"):
        pull.pull(b)
    assert fetch.fetch(b).branch is None


def test_the_commands(
    pair: tuple[Layout, Layout],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mvc(*args: str, status: int = 0) -> str:
        assert main.run(list(args)) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    a, b = pair
    commit(a, 3)
    push.push(a)
    monkeypatch.chdir(b.root)
    assert "origin has 1 new commit of main" in mvc("fetch")
    assert json.loads(mvc("fetch", "--json"))["commits"][0]["batch"] == 3
    commit(b, 4)
    said = mvc("pull", status=1)
    assert "Error: main here and on origin both went on" in said
    assert "Hint: nothing is lost either way" in said
    said = mvc("pull", "--keep-as", "mine")
    assert "Pulled 1 commit from origin" in said
    assert "your own line is branch mine" in said
    assert "main is up to date with origin" in mvc("pull")
    told = json.loads(mvc("pull", "--json"))
    assert (told["partial"], told["kept_as"]) == (False, None)
    assert "contradict" in mvc("pull", "--adapter-only", "--all", status=2)
