"""fsck finds whatever is broken, in any commit, and names commit, file and what to do.

The line under test has three batches and a rollback on main, and a batch that only a snapshot
holds. What each object is needed for is read here without mvc: git, the pointers' YAML, JSON.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.ops import checkout, init, rollback, snapshot, train
from mvc.ops.fsck import fsck
from mvc.store.layout import Layout
from mvc.types import Finding
from tests.ops.conftest import SETS, write_batch

Users = dict[str, set[tuple[str, str]]]


def git(at: Layout, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=at.root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The line of the module's first words; no test changes it for good."""
    folder = tmp_path_factory.mktemp("fsck")
    at = Layout(init.init(folder / "model", str(tiny_base), sets=SETS).root)
    paths = [write_batch(folder / f"day-{i}.jsonl", 4 * i, 4) for i in range(4)]
    list(train.train(at, paths[:3]))
    checkout.checkout(at, "@1")
    (side,) = train.train(at, paths[3:])
    snapshot.snapshot(at)
    checkout.checkout(at, "main")
    git(at, "branch", "-q", "-D", str(side.branch))
    rollback.rollback(at, "@2")
    return at


@pytest.fixture
def line(whole: Layout, tmp_path: Path) -> Layout:
    """A copy to break; links inside it stay links."""
    subprocess.run(["cp", "-a", whole.root, tmp_path / "model"], check=True)
    return Layout(tmp_path / "model")


def cached(at: Layout, md5: str) -> Path:
    return at.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def objects(at: Layout) -> list[str]:
    """The md5 of every object in the cache."""
    folder = at.root / ".dvc" / "cache" / "files" / "md5"
    return sorted(p.parent.name + p.name for p in folder.rglob("*") if p.is_file())


def pointer(at: Layout, commit: str, name: str = "current_model.dvc") -> dict[str, Any]:
    return yaml.safe_load(git(at, "show", f"{commit}:{name}"))


def listing(at: Layout, commit: str, name: str = "current_model.dvc") -> list[dict[str, str]]:
    return json.loads(cached(at, pointer(at, commit, name)["outs"][0]["md5"]).read_text())


@functools.cache
def users(at: Layout) -> Users:
    """Which commits need an object, and as what."""
    found: Users = {}
    for commit in git(at, "rev-list", "--all").split():
        for name in ("current_model.dvc", "batch.dvc"):
            if name not in git(at, "ls-tree", "--name-only", commit).split():
                continue
            folder = pointer(at, commit, name)["outs"][0]
            found.setdefault(folder["md5"], set()).add((commit, name))
            for entry in listing(at, commit, name):
                place = (commit, f"{folder['path']}/{entry['relpath']}")
                found.setdefault(entry["md5"], set()).add(place)
    return found


@contextmanager
def opened(path: Path) -> Iterator[None]:
    """Let a read-only file be changed, and put it back afterwards, its times too."""
    stat, content = path.stat(), path.read_bytes()
    path.chmod(0o644)
    try:
        yield
    finally:
        path.write_bytes(content)
        path.chmod(stat.st_mode)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def places(findings: tuple[Finding, ...]) -> set[tuple[str | None, str]]:
    for found in findings:
        assert found.problem, found
        assert found.hint, found
    return {(f.commit, f.path) for f in findings}


def amend(at: Layout) -> str:
    """Rewrite HEAD's commit from the index, its message kept; returns the new hash.

    It becomes the oldest one, so that what it shares is met first in a commit that is whole.
    """
    old = {"GIT_COMMITTER_DATE": "2001-01-01T00:00:00Z"}
    command = ["git", "commit", "-q", "--amend", "--no-edit"]
    subprocess.run(command, cwd=at.root, env=os.environ | old, check=True)
    return git(at, "rev-parse", "HEAD")


def test_a_whole_line_has_no_findings(whole: Layout) -> None:
    result = fsck(whole)
    assert result.findings == ()
    assert result.num_commits == len(git(whole, "rev-list", "--all").split()) == 6
    assert result.num_objects == len(objects(whole))
    assert result.num_bytes == sum(cached(whole, md5).stat().st_size for md5 in objects(whole))
    assert set(objects(whole)) == set(users(whole))


@settings(max_examples=40)
@given(data=st.data())
def test_any_flipped_byte_is_found_and_named(whole: Layout, data: st.DataObject) -> None:
    md5 = data.draw(st.sampled_from([m for m in objects(whole) if cached(whole, m).stat().st_size]))
    path = cached(whole, md5)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    needed_as = users(whole)[md5]
    with opened(path):
        path.write_bytes(content)
        found = places(fsck(whole).findings)
    assert found & needed_as
    if not md5.endswith(".dir"):
        assert found <= needed_as, "something whole was accused"
    assert not fsck(whole).findings


def test_a_flip_that_leaves_a_list_of_files_readable_is_found(whole: Layout) -> None:
    """The lowest bit of a hash's digit or of a name's letter: still JSON, still a hash."""
    commit = git(whole, "rev-parse", "HEAD~1")
    md5 = pointer(whole, commit)["outs"][0]["md5"]
    path = cached(whole, md5)
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 30):
        with opened(path):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert (commit, "current_model.dvc") in places(fsck(whole).findings), place


@pytest.mark.parametrize("harm", ["missing", "truncated", "emptied"])
@pytest.mark.parametrize("kind", ["adapter_model.safetensors", "optimizer.pt", "batch", ".dir"])
def test_an_object_that_is_gone_or_short(line: Layout, harm: str, kind: str) -> None:
    commit = git(line, "rev-parse", "HEAD~1")  # batch 3, whose state nothing else has
    entries = listing(line, commit) + listing(line, commit, "batch.dvc")
    ours = {e["relpath"]: e["md5"] for e in entries}
    ours |= {"batch": ours["day-2.jsonl"], ".dir": pointer(line, commit)["outs"][0]["md5"]}
    path = cached(line, ours[kind])
    path.chmod(0o644)
    if harm == "missing":
        path.unlink()
    else:
        os.truncate(path, 0 if harm == "emptied" else path.stat().st_size - 1)
    name = {"batch": "batch/day-2.jsonl", ".dir": "current_model.dvc"}.get(
        kind, f"current_model/{kind}"
    )
    findings = fsck(line).findings
    assert places(findings) == {(commit, name)}
    assert all("`mvc fsck`" not in f.hint for f in findings), "it was just run"


def test_one_broken_commit_hides_no_other(line: Layout) -> None:
    """Folder objects of two commits, a file of a third, data of the one that a snapshot holds."""
    snap = git(line, "rev-parse", git(line, "tag") + "^{commit}")
    third, first = git(line, "rev-parse", "HEAD~1"), git(line, "rev-parse", "HEAD~3")
    start = git(line, "rev-parse", "HEAD~4")
    cached(line, pointer(line, third)["outs"][0]["md5"]).unlink()
    cached(line, pointer(line, first)["outs"][0]["md5"]).unlink()
    state = {e["relpath"]: e["md5"] for e in listing(line, start)}
    cached(line, state["adapter_model.safetensors"]).unlink()
    cached(line, listing(line, snap, "batch.dvc")[0]["md5"]).unlink()
    assert places(fsck(line).findings) == {
        (third, "current_model.dvc"),
        (first, "current_model.dvc"),
        (start, "current_model/adapter_model.safetensors"),
        (snap, "batch/day-3.jsonl"),
    }


def test_a_commit_whose_list_of_files_is_shared_is_named_too(line: Layout) -> None:
    """The rollback has batch 2's state."""
    both = {git(line, "rev-parse", rev) for rev in ("HEAD", "HEAD~2")}
    cached(line, pointer(line, "HEAD")["outs"][0]["md5"]).unlink()
    assert places(fsck(line).findings) >= {(commit, "current_model.dvc") for commit in both}


def edit(path: Path) -> None:
    path.chmod(0o644)
    content = path.read_bytes()
    path.unlink()  # the object in the cache stays whole
    path.write_bytes(content + b"!")


@pytest.mark.parametrize(
    "harm", [edit, Path.unlink, lambda path: path.rename(path.with_name("elsewhere"))]
)
def test_the_present_state_is_checked(line: Layout, harm: Callable[[Path], None]) -> None:
    harm(line.state / "optimizer.pt")
    findings = fsck(line).findings
    head = git(line, "rev-parse", "HEAD")
    assert (head, "current_model/optimizer.pt") in places(findings)
    assert {f.commit for f in findings} == {head}


@pytest.mark.parametrize(
    "name", ["batch.dvc", "current_model.dvc", "metrics.json", "loss.csv", "mvc.toml"]
)
def test_a_commit_that_lacks_a_file(line: Layout, name: str) -> None:
    checkout.checkout(line, "@3")
    git(line, "rm", "-q", "--cached", name)
    commit = amend(line)
    git(line, "branch", "broken")
    git(line, "checkout", "-q", "-f", "main")
    found = places(fsck(line).findings)
    assert (commit, name) in found
    assert {c for c, _ in found} <= {commit, git(line, "rev-parse", "main")}


def restate(at: Layout, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> str:
    """Give HEAD's commit another, valid, list of files; DVC itself would find it whole."""
    text = json.dumps(change(listing(at, "HEAD"))).encode()
    md5 = hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    cached(at, md5).parent.mkdir(exist_ok=True)
    cached(at, md5).write_bytes(text)
    named = pointer(at, "HEAD")
    named["outs"][0]["md5"] = md5
    (at.root / "current_model.dvc").write_text(yaml.safe_dump(named))
    git(at, "add", "current_model.dvc")
    return amend(at)


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_config.json"]
)
def test_a_state_that_lacks_a_file(line: Layout, name: str) -> None:
    checkout.checkout(line, "@3")
    commit = restate(line, lambda entries: [e for e in entries if e["relpath"] != name])
    lacking = [f for f in fsck(line).findings if f.problem == "is not in the state"]
    assert places(tuple(lacking)) == {(commit, f"current_model/{name}")}


@pytest.mark.parametrize("rev", ["@1", "@2", "@3"])
def test_a_file_that_is_not_what_its_commit_vouches_for(line: Layout, rev: str) -> None:
    """md5 can be forged; every commit's own SHA-256 is compared, shared object or not."""
    checkout.checkout(line, rev)
    named = pointer(line, "HEAD")
    named["meta"]["files"]["tokenizer.json"]["sha256"] = "0" * 64
    (line.root / "current_model.dvc").write_text(yaml.safe_dump(named))
    git(line, "add", "current_model.dvc")
    commit = amend(line)
    assert places(fsck(line).findings) == {(commit, "current_model/tokenizer.json")}


@pytest.mark.parametrize("what", ["HEAD~1", "HEAD~1^{tree}", "HEAD~1:loss.csv", "HEAD~4"])
def test_git_s_own_objects_are_checked(line: Layout, what: str) -> None:
    name = git(line, "rev-parse", what)
    path = line.root / ".git" / "objects" / name[:2] / name[2:]
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    findings = fsck(line).findings
    assert any(name in f.problem for f in findings if f.path == ".git")
    assert places(findings)
