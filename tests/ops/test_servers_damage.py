"""Must-show 4 and 7 over real servers: damage there is found, used by nobody, and mended.

And what a push and a pull put on the wire, next to plain DVC and the sizes on disk.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mvc.errors import ObjectCorrupt, ObjectMissing
from mvc.ops import checkout, fsck, pull, push
from tests.ops import lines
from tests.ops.lines import commit, content, dvc, git, new_line, state_of
from tests.ops.places import Place, relay, s3, server, sshd
from tests.ops.test_integrity import LIES, in_cache, named
from tests.ops.test_integrity import place as place_of
from tests.wire import Relay

__all__ = ["relay", "s3", "server", "sshd"]

KINDS = ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json", ".dir", "batch")


def harmed(data: bytes, how: str) -> bytes | None:
    if how == "missing":
        return None
    middle = len(data) // 2
    if how == "truncated":
        return data[:middle]
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def test_each_kind_of_harm_is_found_not_taken_and_mended(server: Place, tmp_path: Path) -> None:
    a = new_line(tmp_path / "a")
    server.share(a)
    b = server.cloned(tmp_path / "b")
    sha = commit(a, 3)
    push.push(a)
    objects = {kind: place_of(a, kind) for kind in KINDS}
    held = server.held.all()
    before = git(b.root, "rev-parse", "HEAD"), content(b.state)
    for how in ("flipped", "truncated", "missing"):
        for kind in KINDS if how == "flipped" else KINDS[1:2]:
            md5, path = objects[kind]
            server.held.write(md5, harmed(held[md5], how))
            for other, _ in objects.values():  # what held, an earlier try has brought
                in_cache(b, other).unlink(missing_ok=True)
            with pytest.raises((ObjectCorrupt, ObjectMissing), match=path) as caught:
                pull.pull(b)
            assert sha[:10] in caught.value.message
            assert "origin" in caught.value.hint
            assert not in_cache(b, md5).exists()
            server.held.write(md5, held[md5])
        assert (git(b.root, "rev-parse", "HEAD"), content(b.state)) == before
        for md5, _ in objects.values():
            server.held.write(md5, harmed(held[md5], how))
        findings = fsck.fsck(a, remote="origin").findings
        assert len(findings) == len(KINDS)
        for _, path in objects.values():
            assert named(findings, path, sha)
        mended = fsck.fsck(a, remote="origin", repair=True)
        assert (mended.findings, mended.num_repaired) == ((), len(KINDS))
        assert server.held.all() == held
    pull.pull(b)
    assert content(b.state) == state_of(3, tmp_path)


def test_what_is_damaged_here_is_mended_from_there(server: Place, tmp_path: Path) -> None:
    a = new_line(tmp_path / "a")
    server.share(a)
    sha = git(a.root, "rev-parse", "HEAD")
    for how in ("flipped", "missing"):
        for md5, _ in (objects := [place_of(a, kind) for kind in KINDS]):
            path = in_cache(a, md5)
            data, mode = path.read_bytes(), path.stat().st_mode
            path.chmod(0o644)
            if (bad := harmed(data, how)) is None:
                path.unlink()
            else:
                path.write_bytes(bad)
                path.chmod(mode)
        findings = fsck.fsck(a).findings
        assert named(findings, "current_model", sha)
        result = fsck.fsck(a, repair=True)
        assert (result.findings, result.num_repaired) == ((), len(KINDS))
        assert content(a.state) == state_of(2, tmp_path)
    assert objects


def test_a_manifest_that_lies(server: Place, tmp_path: Path) -> None:
    a = new_line(tmp_path / "a")
    server.share(a)
    b = server.cloned(tmp_path / "b")
    LIES["a SHA-256"](a)
    sha = git(a.root, "rev-parse", "HEAD")
    git(a.root, "push", "-q", str(server.hub), "main")  # a liar's own tools do not look
    for path in (a.root / ".dvc" / "cache" / "files" / "md5").rglob("*.dir"):
        server.held.write(path.parent.name + path.name, path.read_bytes())
    before = git(b.root, "rev-parse", "HEAD"), content(b.state)
    for move in (pull.pull, lambda at: checkout.checkout(at, "origin/main")):
        with pytest.raises(ObjectCorrupt, match=sha[:10]):
            move(b)
    assert (git(b.root, "rev-parse", "HEAD"), content(b.state)) == before


def size(folder: Path) -> int:
    return sum(len(data) for data in content(folder).values())


def test_bytes_on_the_wire(
    server: Place,
    relay: Relay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All that passes between client and server, both ways; plain DVC sends to a second place."""
    monkeypatch.setattr(lines, "ADAPTER", 1_000_000)
    place = server.through(relay)
    a = new_line(tmp_path / "a")
    place.share(a)

    def passed(act: object, *args: object, **options: object) -> int:
        relay.num_bytes = 0
        act(*args, **options)  # type: ignore[operator]
        return relay.num_bytes

    b, c = place.cloned(tmp_path / "b"), tmp_path / "c"
    git(tmp_path, "clone", "-q", str(place.hub), str(c))
    local = b.root / ".dvc" / "config.local"
    (c / ".dvc" / "config.local").write_bytes(local.read_bytes())
    dvc(c, "pull", "-q")
    commit(a, 3)
    there = server.held.all()
    mvc_push = passed(push.push, a)
    for md5 in server.held.all().keys() - there.keys():
        server.held.write(md5, None)
    dvc_push = passed(dvc, a.root, "push", "-q")
    adapter = passed(pull.pull, b, adapter_only=True)
    rest = passed(pull.pull, b)
    git(c, "pull", "-q")
    dvc_pull = passed(dvc, c, "pull", "-q")
    on_disk = size(a.state) + size(a.batch)
    with capsys.disabled():
        print(
            f"\n{type(server.server).__name__}, bytes on the wire, both ways: push after one "
            f"batch {mvc_push:,} (dvc push {dvc_push:,}); pull --adapter-only {adapter:,}, "
            f"the rest {rest:,} (dvc pull {dvc_pull:,}); state and batch on disk {on_disk:,}"
        )
    overhead = 60_000  # handshakes, questions, lists of files; ssh: git's commits too
    assert mvc_push < dvc_push + overhead
    assert on_disk < mvc_push < on_disk * 1.05 + overhead
    assert 1_000_000 < adapter < 1_050_000 + overhead
    assert adapter + rest < dvc_pull * 1.05 + 2 * overhead
