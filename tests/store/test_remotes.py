"""Remotes: what is kept where, what is refused, and that no secret is ever shown or tracked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mvc.errors import MissingExtra, MvcError, RemoteError
from mvc.store import remotes
from mvc.store.layout import Layout
from tests.store.conftest import dvc, git

SECRET = "hunter2-and-more"


def _tracked(layout: Layout) -> str:
    return (layout.root / ".dvc" / "config").read_text()


def _local(layout: Layout) -> str:
    path = layout.root / ".dvc" / "config.local"
    return path.read_text() if path.exists() else ""


def test_a_remote_is_a_git_and_a_dvc_remote(empty: Layout, tmp_path: Path) -> None:
    remotes.add(empty, "origin", str(tmp_path / "g.git"), str(tmp_path / "data"))
    remotes.add(empty, "backup", "git@example.org:team/model.git", "~/data")
    assert git(empty.root, "remote", "get-url", "origin").strip() == str(tmp_path / "g.git")
    assert dvc(empty.root, "remote", "list").split() == [
        "origin", str(tmp_path / "data"), "(default)", "backup", str(Path("~/data").expanduser()),
    ]  # fmt: skip
    assert [(r.name, r.default) for r in remotes.listing(empty)] == [
        ("backup", False),
        ("origin", True),
    ]
    assert remotes.get(empty).name == "origin"
    assert remotes.get(empty, "backup").git_url == "git@example.org:team/model.git"
    assert not _local(empty)


def test_folders_become_absolute(
    empty: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    remotes.add(empty, "origin", "../g.git", "./data")
    remote = remotes.get(empty)
    assert remote.git_url == str(tmp_path.parent / "g.git")
    assert remote.data_url == str(tmp_path / "data")


def test_secrets_are_local_and_what_clones_need_is_tracked(empty: Layout) -> None:
    options = {
        "endpointurl": "http://127.0.0.1:9000",
        "access_key_id": "AKIA-" + SECRET,
        "secret_access_key": SECRET,
        "session_token": SECRET,
        "profile": "mine",
    }
    remotes.add(empty, "origin", "/srv/g.git", "s3://bucket/model", options)
    assert "http://127.0.0.1:9000" in _tracked(empty)
    assert "s3://bucket/model" in _tracked(empty)
    assert SECRET not in _tracked(empty)
    assert "mine" not in _tracked(empty)
    assert _local(empty).count(SECRET) == 3
    assert (empty.root / ".dvc" / "config.local").stat().st_mode & 0o077 == 0
    git(empty.root, "add", "-A")
    assert ".dvc/config.local" not in git(empty.root, "ls-files")
    assert SECRET not in git(empty.root, "grep", "--cached", "-h", "", "--", ".dvc")
    assert remotes.secrets(empty, "origin")["secret_access_key"] == SECRET


@pytest.mark.parametrize(
    ("url", "tracked"),
    [
        (f"ssh://ada:{SECRET}@host:2222/srv/data", "ssh://ada@host:2222/srv/data"),
        (f"https://ada:{SECRET}@host/data", "https://host/data"),
    ],
)
def test_a_password_in_the_url_is_taken_out(empty: Layout, url: str, tracked: str) -> None:
    remotes.add(empty, "origin", "/srv/g.git", url)
    assert remotes.get(empty).data_url == tracked
    assert SECRET not in _tracked(empty)
    assert f"password = {SECRET}" in _local(empty)


def test_the_same_remote_again_adds_this_machines_secrets(empty: Layout) -> None:
    remotes.add(empty, "origin", "/srv/g.git", "s3://bucket/model")
    before = _tracked(empty)
    remotes.add(empty, "origin", "/srv/g.git", "s3://bucket/model", {"secret_access_key": SECRET})
    assert _tracked(empty) == before
    assert SECRET in _local(empty)
    with pytest.raises(RemoteError, match="exists already"):
        remotes.add(empty, "origin", "/srv/g.git", "s3://bucket/other")
    assert _tracked(empty) == before


def test_a_remote_of_git_alone_is_completed(empty: Layout, tmp_path: Path) -> None:
    git(empty.root, "remote", "add", "origin", "/srv/g.git")
    assert remotes.get(empty).data_url is None
    remotes.add(empty, "origin", "/srv/g.git", str(tmp_path))
    assert remotes.get(empty).data_url == str(tmp_path)


def test_remove(empty: Layout, tmp_path: Path) -> None:
    remotes.add(empty, "one", "/srv/1.git", str(tmp_path / "1"))
    remotes.add(empty, "two", "/srv/2.git", "s3://bucket/2", {"secret_access_key": SECRET})
    remotes.remove(empty, "two")
    assert SECRET not in _local(empty)
    assert git(empty.root, "remote").split() == ["one"]
    remotes.remove(empty, "one")
    assert remotes.listing(empty) == []
    assert "remote" not in _tracked(empty)
    for name in ("one", None):
        with pytest.raises(RemoteError) as caught:
            remotes.get(empty, name)
        assert "mvc remote" in caught.value.hint


def test_which_remote_is_meant(line: Layout, tmp_path: Path) -> None:
    remotes.add(line, "one", "/srv/1.git", str(tmp_path / "1"))
    remotes.add(line, "two", "/srv/2.git", str(tmp_path / "2"))
    assert remotes.get(line).name == "one"
    git(line.root, "config", "branch.main.remote", "two")
    assert remotes.get(line).name == "two"
    git(line.root, "config", "--unset", "branch.main.remote")
    dvc(line.root, "config", "--unset", "core.remote")
    with pytest.raises(RemoteError, match="several"):
        remotes.get(line)


@pytest.mark.parametrize("name", ["Origin", "-x", "a..b", "a b", "../x", "x.lock", "", "a\nb"])
def test_odd_names_are_refused(empty: Layout, name: str) -> None:
    with pytest.raises(RemoteError, match="name"):
        remotes.add(empty, name, "/srv/g.git", "/srv/data")
    assert remotes.listing(empty) == []


@pytest.mark.parametrize(
    ("git_url", "data_url", "options", "message"),
    [
        ("/srv/g.git", "gopher://host/x", {}, "no protocol gopher"),
        ("/srv/g.git", "memory://x", {}, "no protocol memory"),
        ("--upload-pack=touch x", "/srv/data", {}, "not a URL"),
        ("/srv/g.git", "", {}, "not a URL"),
        ("/srv/g.git", f"s3://key:{SECRET}@bucket/x", {}, "no user and password"),
        ("/srv/g.git", f"https://host/x?token={SECRET}", {}, "takes no"),
        ("/srv/g.git", "ssh://host:port/x", {}, "is not a URL"),
        ("/srv/g.git", "s3://bucket/x", {"secret_acess_key": SECRET}, "extra keys"),
        ("/srv/g.git", "ssh://host/x", {"max_sessions": SECRET}, "max_sessions"),
    ],
)
def test_what_dvc_cannot_take_changes_nothing(
    empty: Layout, git_url: str, data_url: str, options: dict[str, str], message: str
) -> None:
    before = _tracked(empty)
    with pytest.raises(RemoteError, match=message) as caught:
        remotes.add(empty, "origin", git_url, data_url, options)
    assert SECRET not in _everything(caught.value)
    assert _tracked(empty) == before
    assert SECRET not in _local(empty)
    assert git(empty.root, "remote") == ""


def _everything(error: MvcError) -> str:
    """What an error could show: message, hint, and the chain of causes."""
    import traceback

    return f"{error.message} {error.hint} {''.join(traceback.format_exception(error))}"


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("s3://bucket/x", "mvc-model[s3]"),
        ("ssh://host/x", "mvc-model[ssh]"),
        ("gs://bucket/x", "mvc-model[gs]"),
        ("azure://container/x", "mvc-model[azure]"),
        ("webdav://host/x", "mvc-model[webdav]"),
        ("webdavs://host/x", "mvc-model[webdav]"),
        ("https://host/x", "dvc-http"),  # DVC itself brings it
    ],
)
def test_a_missing_protocol_names_its_extra(
    empty: Layout, url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for extra in ("s3", "ssh", "gs", "azure", "webdav", "http"):
        monkeypatch.setitem(sys.modules, f"dvc_{extra}", None)
    with pytest.raises(MissingExtra) as caught:
        remotes.add(empty, "origin", "/srv/g.git", url)
    assert f"`pip install '{package}'`" in caught.value.hint
    assert remotes.listing(empty) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/srv/data", "/srv/data"),
        ("git@host:team/x.git", "git@host:team/x.git"),
        (f"ssh://ada:{SECRET}@host:22/x", "ssh://ada:***@host:22/x"),
        ("ssh://ada@host/x", "ssh://ada@host/x"),
        (f"https://{SECRET}@github.com/x", "https://***@github.com/x"),
        (f"https://ada:{SECRET}@host/x", "https://ada:***@host/x"),
        (f"https://ada:p@{SECRET}@host/x", "https://ada:***@host/x"),
        (f"https://host/x?sig={SECRET}&a=b", "https://host/x?***"),
    ],
)
def test_masked(url: str, shown: str) -> None:
    assert remotes.masked(url) == shown
    assert SECRET not in remotes.scrubbed(f"cannot reach {url}: refused")
