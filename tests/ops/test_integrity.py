"""What is damaged is found, named with its commit and cure, and used by nobody; and it is mended.

A byte flipped, the end cut off, or the file gone; in the adapter, the moments, the list of files
and the batch; in this machine's cache and on the remote. And manifests that lie.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mvc.cli import main
from mvc.errors import MvcError, ObjectCorrupt, ObjectMissing
from mvc.ops import checkout, clone, fsck, pull, push, rollback
from mvc.ops.batch import _clean_state
from mvc.store import history, pointers, tracked
from mvc.store.layout import Layout
from mvc.types import SILENT, Finding
from tests.ops.lines import (
    cloned,
    commit,
    content,
    dvc,
    git,
    new_line,
    shared_line,
    state_of,
)

KINDS = ("adapter_model.safetensors", "optimizer.pt", ".dir", "batch")
HARMS = ("flipped", "truncated", "missing", "flipped unseen")


def place(at: Layout, kind: str, rev: str = "HEAD") -> tuple[str, str]:
    """An object of a commit: its md5, and the path that a message must name."""
    sha = git(at.root, "rev-parse", rev)
    state, batch = tracked.pointers_of(at.root, sha)
    if kind == ".dir":
        return state.md5, "current_model"
    pointer = batch if kind == "batch" else state
    listed = {path: md5 for path, md5, _ in pointers.entries(at, pointer)}
    name = next(iter(listed)) if kind == "batch" else kind
    return listed[name], f"{pointer.path}/{name}"


def in_cache(at: Layout, md5: str) -> Path:
    return pointers.object_path(pointers.cache_folder(at), md5)


def in_store(folder: Path, md5: str) -> Path:
    return folder / "store" / "files" / "md5" / md5[:2] / md5[2:]


def damage(path: Path, how: str) -> None:
    """Harm a file in place, as a disk would; `unseen` leaves its times as they were."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    path.chmod(0o644)
    if how == "truncated":
        os.truncate(path, len(data) // 2)
    else:
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)
    path.chmod(stat.st_mode)
    if how == "flipped unseen":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def named(findings: tuple[Finding, ...], path: str, commit: str) -> bool:
    """Whether a finding names that file and commit, and a cure."""
    hits = [f for f in findings if path in f.path and f.commit == commit and f.problem]
    return any("--repair" in f.hint for f in hits)


@pytest.fixture
def line(tmp_path: Path) -> Layout:
    """Three batches, no remote."""
    return new_line(tmp_path / "a", 3)


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_older_object_is_found_and_not_checked_out(line: Layout, kind: str, how: str) -> None:
    sha = git(line.root, "rev-parse", "HEAD~1")
    md5, path = place(line, kind, "HEAD~1")
    damage(in_cache(line, md5), how)
    before = git(line.root, "rev-parse", "HEAD"), content(line.state)
    findings = fsck.fsck(line).findings
    assert named(findings, path, sha)
    assert {f.commit for f in findings} == {sha}
    for move in (checkout.checkout, rollback.rollback):
        with pytest.raises((ObjectCorrupt, ObjectMissing)) as caught:
            move(line, "@2")
        assert path in caught.value.message
        assert caught.value.hint
        if how != "missing":
            assert sha[:10] in caught.value.message
            assert "--repair" in caught.value.hint
    assert (git(line.root, "rev-parse", "HEAD"), content(line.state)) == before
    checkout.checkout(line, "@1")


def test_a_harm_that_a_checkout_does_not_see_is_seen_before_training(line: Layout) -> None:
    """Without a trace in the file's times: a checkout does not read what was read before."""
    sha = git(line.root, "rev-parse", "HEAD~1")
    checkout.checkout(line, "@2")  # reads its objects
    checkout.checkout(line, "main")
    md5, path = place(line, "optimizer.pt", "HEAD~1")
    damage(in_cache(line, md5), "flipped unseen")
    checkout.checkout(line, "@2")
    with pytest.raises(ObjectCorrupt, match=path):
        _clean_state(line, history.commit(line.root, sha), SILENT)
    assert named(fsck.fsck(line).findings, path, sha)


@pytest.mark.parametrize("how", [how for how in HARMS if how != "missing"])
@pytest.mark.parametrize("kind", ["adapter_model.safetensors", "optimizer.pt", ".dir"])
def test_the_present_state_is_not_trained_on(line: Layout, kind: str, how: str) -> None:
    sha = git(line.root, "rev-parse", "HEAD")
    md5, path = place(line, kind)
    damage(in_cache(line, md5), how)
    assert named(fsck.fsck(line).findings, path, sha)
    with pytest.raises(ObjectCorrupt, match=rf"{sha[:10]}.*{path}|{path}.*{sha[:10]}") as caught:
        _clean_state(line, history.commit(line.root, sha), SILENT)
    assert "fsck" in caught.value.hint


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_remote_object_is_found_not_taken_and_mended(tmp_path: Path, kind: str, how: str) -> None:
    a = shared_line(tmp_path, 2)
    b = cloned(tmp_path, "b")
    sha = commit(a, 3)
    push.push(a)
    md5, path = place(a, kind)
    damage(in_store(tmp_path, md5), how)
    before = git(b.root, "rev-parse", "HEAD"), content(b.state)
    with pytest.raises((ObjectCorrupt, ObjectMissing), match=path) as caught:
        pull.pull(b)
    assert sha[:10] in caught.value.message
    assert "origin" in caught.value.hint
    assert (git(b.root, "rev-parse", "HEAD"), content(b.state)) == before
    if how != "missing" and kind != ".dir":
        assert not in_cache(b, md5).exists()
    with pytest.raises(MvcError, match=path):
        clone.clone(str(tmp_path / "hub.git"), tmp_path / "c")
    assert not fsck.fsck(a).findings, "here all is well"
    findings = fsck.fsck(a, remote="origin").findings
    assert named(findings, path, sha)
    assert all("origin" in f.problem for f in findings)
    mended = fsck.fsck(a, remote="origin", repair=True)
    assert not mended.findings
    assert mended.num_repaired == 1
    pull.pull(b)
    assert content(b.state) == state_of(3, tmp_path)


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_local_object_is_mended_from_the_remote(tmp_path: Path, kind: str, how: str) -> None:
    at = shared_line(tmp_path, 2)
    md5, path = place(at, kind)
    damage(in_cache(at, md5), how)
    assert named(fsck.fsck(at).findings, path, git(at.root, "rev-parse", "HEAD"))
    result = fsck.fsck(at, repair=True)
    assert not result.findings
    assert result.num_repaired == 1
    assert content(at.state) == state_of(2, tmp_path)
    assert git(at.root, "status", "--porcelain") == ""


def test_mending_leaves_the_user_s_changes_alone(tmp_path: Path) -> None:
    at = shared_line(tmp_path, 2)
    damage(in_cache(at, place(at, "optimizer.pt")[0]), "flipped")
    (at.state / "notes.txt").write_text("mine")
    (at.state / "tokenizer.json").unlink()
    (at.state / "tokenizer.json").write_text("mine")
    findings = fsck.fsck(at, repair=True).findings
    assert {f.path for f in findings} == {
        f"current_model/{n}" for n in ("notes.txt", "tokenizer.json")
    }
    assert (at.state / "notes.txt").read_text() == "mine"
    assert (at.state / "tokenizer.json").read_text() == "mine"


def test_what_is_damaged_on_both_sides_stays_named(tmp_path: Path) -> None:
    at = shared_line(tmp_path, 2)
    md5, path = place(at, "optimizer.pt")
    other, other_path = place(at, "adapter_model.safetensors")
    for file in (in_cache(at, md5), in_cache(at, other), in_store(tmp_path, md5)):
        damage(file, "flipped")
    sha = git(at.root, "rev-parse", "HEAD")
    result = fsck.fsck(at, remote="origin", repair=True)
    assert result.num_repaired == 1
    assert named(result.findings, path, sha)
    assert not named(result.findings, other_path, sha)


def test_older_states_of_a_clone_are_not_missed(tmp_path: Path) -> None:
    shared_line(tmp_path, 3)
    b = cloned(tmp_path, "b")
    result = fsck.fsck(b)
    assert not result.findings
    assert result.num_absent > 0
    assert not fsck.fsck(b, remote="origin").findings
    md5, path = place(b, "optimizer.pt")
    in_cache(b, md5).unlink()
    assert named(fsck.fsck(b).findings, path, git(b.root, "rev-parse", "HEAD"))


def test_sampling_reads_some_and_asks_for_all(tmp_path: Path) -> None:
    at = shared_line(tmp_path, 2)
    damage(in_store(tmp_path, place(at, "optimizer.pt")[0]), "flipped")
    damage(in_store(tmp_path, place(at, "adapter_model.safetensors")[0]), "missing")
    (found,) = fsck.fsck(at, remote="origin", sample=0).findings
    assert "adapter_model.safetensors" in found.path
    assert len(fsck.fsck(at, remote="origin").findings) == 2


# --- manifests that lie -------------------------------------------------------------------------


def relist(at: Layout, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Give current_model.dvc another list of files, whose hash is right."""
    state, _ = tracked.pointers_of(at.root, git(at.root, "rev-parse", "HEAD"))
    listing = json.loads(in_cache(at, state.md5).read_bytes())
    change(listing)
    data = json.dumps(listing).encode()
    md5 = hashlib.md5(data).hexdigest() + ".dir"
    in_cache(at, md5).parent.mkdir(exist_ok=True)
    in_cache(at, md5).write_bytes(data)
    repoint(at, lambda told: told["outs"][0].update(md5=md5))


def repoint(at: Layout, change: Callable[[dict[str, Any]], object]) -> None:
    """Commit another current_model.dvc by hand."""
    path = at.root / "current_model.dvc"
    told = YAML(typ="safe").load(path.read_text())
    change(told)
    with path.open("w") as file:
        YAML(typ="safe").dump(told, file)
    git(at.root, "commit", "-q", "-am", "lie")


def sha256_of_another(told: dict[str, Any]) -> None:
    files = told["meta"]["files"]
    files["optimizer.pt"]["sha256"] = files["scheduler.pt"]["sha256"]


LIES: dict[str, Callable[[Layout], None]] = {
    "a SHA-256": lambda at: repoint(at, sha256_of_another),
    "a size": lambda at: repoint(
        at, lambda told: told["meta"]["files"]["optimizer.pt"].update(size=1)
    ),
    "a huge size": lambda at: repoint(
        at, lambda told: told["meta"]["files"]["optimizer.pt"].update(size=1 << 60)
    ),
    "a file too few": lambda at: repoint(
        at, lambda told: told["meta"]["files"].pop("optimizer.pt")
    ),
    "a file too many": lambda at: repoint(
        at,
        lambda told: told["meta"]["files"].update(more=dict(told["meta"]["files"]["scheduler.pt"])),
    ),
    "the sum": lambda at: repoint(at, lambda told: told["outs"][0].update(size=7)),
    "two files exchanged": lambda at: relist(
        at, lambda files: files[0].update(md5=files[1]["md5"])
    ),
    "a file not vouched for": lambda at: relist(
        at, lambda files: files.append({"md5": files[0]["md5"], "relpath": "evil.pt"})
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies(tmp_path: Path, lie: str) -> None:
    a = shared_line(tmp_path, 2)
    b = cloned(tmp_path, "b")
    LIES[lie](a)
    sha = git(a.root, "rev-parse", "HEAD")
    assert any(f.commit == sha and f.hint for f in fsck.fsck(a).findings)
    with pytest.raises(ObjectCorrupt, match=sha[:10]) as caught:
        _clean_state(a, history.commit(a.root, sha), SILENT)
    assert caught.value.hint
    # What a liar's own tools would send: refs and objects without mvc's checks.
    git(a.root, "push", "-q", str(tmp_path / "hub.git"), "main")
    for path in pointers.cache_folder(a).rglob("*.dir"):
        md5 = path.parent.name + path.name
        in_store(tmp_path, md5).parent.mkdir(exist_ok=True)
        if not in_store(tmp_path, md5).exists():
            in_store(tmp_path, md5).write_bytes(path.read_bytes())
    before = git(b.root, "rev-parse", "HEAD"), content(b.state)
    with pytest.raises(ObjectCorrupt, match=sha[:10]):
        pull.pull(b)
    with pytest.raises(ObjectCorrupt, match=sha[:10]):
        checkout.checkout(b, "origin/main")
    assert (git(b.root, "rev-parse", "HEAD"), content(b.state)) == before


def test_a_plain_dvc_add_leaves_an_old_manifest_and_the_hint_cures_it(tmp_path: Path) -> None:
    at = shared_line(tmp_path, 1)
    (at.state / "tokenizer.json").unlink()
    (at.state / "tokenizer.json").write_text("another")
    dvc(at.root, "add", "current_model")
    git(at.root, "commit", "-q", "-am", "by hand")
    with pytest.raises(ObjectCorrupt, match="manifest lies") as caught:
        push.push(at)
    assert "delete the `meta:` part of current_model.dvc" in caught.value.hint
    pointer = at.root / "current_model.dvc"
    pointer.write_text(pointer.read_text().partition("meta:")[0])
    git(at.root, "commit", "-q", "-a", "--amend", "--no-edit")
    assert not fsck.fsck(at).findings
    assert len(push.push(at).commits) == 1
    assert content(cloned(tmp_path, "b").state) == content(at.state)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = shared_line(tmp_path, 1)
    monkeypatch.chdir(at.root)
    damage(in_cache(at, place(at, "optimizer.pt")[0]), "flipped")
    damage(in_store(tmp_path, place(at, "adapter_model.safetensors")[0]), "flipped")
    assert main.run(["fsck", "--remote", "origin"]) == 1
    told = capsys.readouterr().out
    assert "on remote origin" in told
    assert "mvc fsck --remote origin --repair" in told
    assert main.run(["fsck", "--remote", "origin", "--repair"]) == 0
    told = capsys.readouterr().out
    assert "Mended 2 objects" in told
    assert "All is well" in told
    assert main.run(["fsck", "--sample", "3"]) == 2
    assert main.run(["fsck", "--remote", "nowhere"]) == 1
