"""Where a machine looks for objects: what a pulled commit says of it has no say."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from mvc.cli import main
from mvc.errors import ObjectMissing, RemoteError
from mvc.ops import fetch, pull, push, remote
from mvc.store import places, remotes, user
from mvc.store.layout import Layout
from tests.ops.lines import START, cloned, commit, dvc, git, new_line, shared_line

EVIL = "http://127.0.0.1:1"
KEYS = {"access_key_id": "AKIA", "secret_access_key": "hunter2-and-more"}


def used(at: Layout) -> dict[str, Any]:
    """The options with which a transfer with `origin` would be made."""
    return dict(places.configuration(at, "origin")["remote"]["origin"])


@pytest.fixture
def on_s3(tmp_path: Path) -> Layout:
    """A line whose remote is S3, pinned, with keys and without an endpoint."""
    at = new_line(tmp_path / "a", 1)
    remote.add(at, "origin", "/srv/g.git", "s3://bucket/model", KEYS, now=START)
    return at


def test_a_commit_cannot_lead_the_keys_to_another_server(on_s3: Layout) -> None:
    before = used(on_s3)
    config = on_s3.root / ".dvc" / "config"
    more = f"    endpointurl = {EVIL}\n    use_ssl = false\n    profile = x\n    jobs = 3\n"
    config.write_text(config.read_text().rstrip("\n") + "\n" + more)
    assert EVIL in dvc(on_s3.root, "config", "--project", "remote.origin.endpointurl")
    assert used(on_s3) == before | {"jobs": 3}
    places.pin(on_s3, "origin")
    local = on_s3.root / ".dvc" / "config.local"
    assert EVIL not in local.read_text()
    assert KEYS["secret_access_key"] in local.read_text()
    # This user accepts it: the remote as it is recorded, said again.
    remotes.add(on_s3, "origin", "/srv/g.git", "s3://bucket/model", {"endpointurl": EVIL})
    assert used(on_s3)["endpointurl"] == EVIL
    assert "profile" not in used(on_s3)


def test_whoever_obeys_the_tracked_configuration_does(
    on_s3: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    dvc(on_s3.root, "remote", "modify", "origin", "endpointurl", EVIL)
    assert "endpointurl" not in used(on_s3)
    user.path().parent.mkdir(parents=True)
    user.path().write_text(f"[repo.'{on_s3.root}']\ndvc_config = true\n")
    assert used(on_s3)["endpointurl"] == EVIL


def test_a_url_of_another_remote_is_not_followed(on_s3: Layout) -> None:
    dvc(on_s3.root, "remote", "add", "images", "remote://origin/images")
    with pytest.raises(RemoteError, match="another remote"):
        places.configuration(on_s3, "images")


def test_what_dvc_refuses_leaves_this_machines_secrets(on_s3: Layout) -> None:
    local = on_s3.root / ".dvc" / "config.local"
    before = local.read_bytes()
    for options in ({"secret_acess_key": "x"}, {"read_timeout": "never", "region": "x"}):
        with pytest.raises(RemoteError):
            remotes.add(on_s3, "origin", "/srv/g.git", "s3://bucket/model", options)
        with pytest.raises(RemoteError):
            remote.place(on_s3, "origin", "s3://other/model", options)
        assert local.read_bytes() == before


def test_keys_are_at_no_moment_for_others_to_read(
    on_s3: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while DVC has written the file and mvc has not been there again."""
    from dvc.config import Config

    local = on_s3.root / ".dvc" / "config.local"
    local.unlink()
    save, modes = Config._save_config, []

    def saving(config: Config, level: str, conf: dict[str, Any]) -> None:
        save(config, level, conf)
        if local.exists():
            modes.append(local.stat().st_mode & 0o777)

    monkeypatch.setattr(Config, "_save_config", saving)
    remotes.add(on_s3, "origin", "/srv/g.git", "s3://bucket/model", KEYS)
    assert set(modes) == {0o600}


def test_objects_that_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull that cannot have them says both places, and its hint is a command that helps."""
    a, b = shared_line(tmp_path), cloned(tmp_path, "b")
    (tmp_path / "store").rename(tmp_path / "it moved")
    dvc(a.root, "remote", "modify", "origin", "url", str(tmp_path / "it moved"))
    git(a.root, "commit", "-q", "-m", "The objects moved", ".dvc/config")
    remote.place(a, "origin", str(tmp_path / "it moved"))
    new = commit(a, 3)
    push.push(a)
    for verb in (pull.pull, fetch.fetch):
        with pytest.raises((ObjectMissing, RemoteError)) as caught:
            verb(b)
        assert str(tmp_path / "store") in caught.value.message
        assert str(tmp_path / "it moved") in caught.value.message
    words = shlex.split(caught.value.hint.split("`")[1])
    assert words[:3] == ["mvc", "remote", "place"]
    monkeypatch.chdir(b.root)
    assert main.run(words[1:]) == 0
    assert git(b.root, "status", "--porcelain") == ""
    assert pull.pull(b).head.commit == new


def test_a_folder_that_a_group_shares(tmp_path: Path) -> None:
    """As plain DVC makes it, also in the clone of a colleague."""
    a = shared_line(tmp_path, 1)
    dvc(a.root, "remote", "modify", "origin", "shared", "group")
    git(a.root, "commit", "-q", "-m", "Share with the group", ".dvc/config")
    commit(a, 2)
    shutil.rmtree(tmp_path / "store")
    push.push(a, all_states=True)
    folders = [path for path in (tmp_path / "store").rglob("*") if path.is_dir()]
    assert folders
    assert {path.stat().st_mode & 0o7777 for path in folders} == {0o2775}
    b = cloned(tmp_path, "b")
    (new,) = remotes.listing(b)
    remotes.add(b, "origin", str(new.git_url), str(new.data_url), {"shared": "group"})
    assert git(b.root, "status", "--porcelain") == ""  # it was tracked, and is public
