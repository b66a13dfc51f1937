"""Transfers that fail: no right, no server, no trust, and SIGKILL at any moment."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mvc.errors import ObjectMissing, RemoteError, RepoError, StoreError
from mvc.sharing import Transfer
from mvc.store import objects, remotes, transfer
from tests.killing import count_events, run_and_kill, spread
from tests.servers import S3, Sshd
from tests.store.conftest import git
from tests.store.sharing import (
    Bytes,
    cached,
    in_bucket,
    in_folder,
    local,
    pair,
    place,
    s3,
    sent,
    sshd,
)

__all__ = ["local", "place", "s3", "sshd"]


# --- errors -------------------------------------------------------------------------------------


def _said(error: StoreError) -> str:
    import traceback

    return f"{error.message} {error.hint} {''.join(traceback.format_exception(error))}"


def test_a_wrong_secret_is_not_shown(s3: S3, tmp_path: Path) -> None:
    p = pair(in_bucket(s3), tmp_path, 1)
    remotes.remove(p.a, "origin")
    options = s3.options | {"session_token": "top-secret-token"}
    remotes.add(p.a, "origin", str(p.a.root), "s3://no-such-bucket/model", options)
    with pytest.raises(RemoteError) as caught:
        transfer.push(p.a, "origin", sent(p.wanted))
    assert "no-such-bucket" in caught.value.message
    for secret in (s3.secret_access_key, s3.access_key_id, "top-secret-token"):
        assert secret not in _said(caught.value)


def test_an_unknown_host_key_is_refused(sshd: Sshd, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    p = pair(in_folder(folder, sshd.url(folder), sshd.options), tmp_path, 1)
    known = home / ".ssh" / "known_hosts"
    text = known.read_text()
    known.write_text(text.replace(f":{sshd.port}", ":1"))
    with pytest.raises(RemoteError, match="HostKeyNotVerifiable") as caught:
        transfer.push(p.a, "origin", sent(p.wanted))
    assert "ssh" in caught.value.hint
    assert not folder.exists()


def test_a_refused_key(sshd: Sshd, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    p = pair(in_folder(folder, sshd.url(folder), sshd.options), tmp_path, 1)
    (sshd.keyfile.parent / "authorized_keys").write_text("")
    with pytest.raises(RemoteError) as caught:
        transfer.push(p.a, "origin", sent(p.wanted))
    assert "Permission denied for user" in caught.value.message
    assert "mvc remote add" in caught.value.hint


def test_a_remote_that_is_not_there(local: Bytes, tmp_path: Path) -> None:
    p = pair(local, tmp_path, 1)
    with pytest.raises(RemoteError, match="no remote 'other'"):
        transfer.push(p.a, "other", sent(p.wanted))
    with pytest.raises(ObjectMissing):
        transfer.fetch(p.b, "origin", p.wanted)
    git(p.a.root, "remote", "add", "plain", "/srv/x.git")
    with pytest.raises(RemoteError, match="git remote only"):
        transfer.push(p.a, "plain", sent(p.wanted))


def test_a_foreign_program_in_the_config_does_not_run(local: Bytes, tmp_path: Path) -> None:
    p = pair(local, tmp_path, 1)
    (p.b.root / ".dvc" / "config").write_text(
        "['remote \"origin\"']\n    url = webdavs://127.0.0.1:1/x\n"
        f"    bearer_token_command = touch {tmp_path}/planted\n"
    )
    with pytest.raises(RepoError, match="bearer_token_command"):
        transfer.fetch(p.b, "origin", p.wanted)
    assert not (tmp_path / "planted").exists()


# --- killed -------------------------------------------------------------------------------------


def _whole(held: dict[str, bytes]) -> None:
    """No wrong bytes under a right name; what is half-sent has a name of its own."""
    for name, data in held.items():
        if not name.startswith(".mvc-"):
            assert hashlib.md5(data).hexdigest() == name.removesuffix(".dir"), name


@pytest.mark.slow
@pytest.mark.parametrize("side", ["push", "fetch"])
def test_killed_at_any_moment(local: Bytes, tmp_path: Path, side: str) -> None:
    p = pair(local, tmp_path, 2, 300_000)
    if side == "fetch":
        transfer.push(p.a, "origin", sent(p.wanted))

    def act() -> Transfer:
        if side == "push":
            return transfer.push(p.a, "origin", sent(p.wanted))
        return transfer.fetch(p.b, "origin", p.wanted)

    def wipe() -> None:
        where = tmp_path / "data" if side == "push" else objects.cache_folder(p.b)
        assert os.system(f"rm -rf '{where}'") == 0

    events = count_events(act)
    assert events > 20
    num_resumed = 0
    for nth in spread(events, 20):
        wipe()
        run_and_kill(act, nth)
        objects.sweep(p.b)
        if (tmp_path / "data").exists():
            _whole(local.all())
        _whole(cached(p.b))
        done = act()
        num_resumed += bool(done.num_present and done.num_objects)
        held = local.all() if side == "push" else cached(p.b)
        assert {k: v for k, v in held.items() if not k.startswith(".mvc-")} == cached(p.a)
    assert num_resumed


def test_half_sent_files_are_removed_after_a_day(local: Bytes, tmp_path: Path) -> None:
    p = pair(local, tmp_path)
    base = tmp_path / "data" / "files" / "md5"
    base.mkdir(parents=True)
    dvc_ssh = ".old_" + "x" * 18 + ".tmp"
    names = (".mvc-old.tmp", ".mvc-new.tmp", ".old-of-somebody.tmp", dvc_ssh)
    for name in names:
        (base / name).write_text("half")
        if "old" in name:
            os.utime(base / name, (0, 0))
    transfer.push(p.a, "origin", sent(p.wanted))
    assert [(base / name).exists() for name in names] == [False, True, True, False]
