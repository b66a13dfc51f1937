"""`mvc verify`, and that checkout and pull keep to what the user's configuration asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvc.cli import main
from mvc.errors import SignatureError
from mvc.ops import checkout, pull, push, rollback, snapshot, verify
from mvc.store import user
from mvc.store.layout import Layout
from tests.ops.lines import cloned, commit, content, git, shared_line
from tests.store.test_signatures import ssh_key


class Team:
    """Clones a and b of one line; what a commits from now on it signs, as Ada or as Eve."""

    def __init__(self, folder: Path) -> None:
        self.a = shared_line(folder, 1)
        self.b = cloned(folder, "b")
        self.keys = {name: ssh_key(folder, name) for name in ("ada", "eve")}
        allowed = folder / "allowed"
        allowed.write_text(f"ada@example.org {self.keys['ada'].with_suffix('.pub').read_text()}")
        for at in (self.a, self.b):
            git(at.root, "config", "gpg.format", "ssh")
            git(at.root, "config", "gpg.ssh.allowedSignersFile", str(allowed))

    def sign(self, name: str | None) -> None:
        git(self.a.root, "config", "commit.gpgSign", str(name is not None).lower())
        git(self.a.root, "config", "tag.gpgSign", str(name is not None).lower())
        if name:
            git(self.a.root, "config", "user.signingKey", str(self.keys[name]))


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Team(tmp_path)


def require_signed() -> None:
    user.path().parent.mkdir(parents=True)
    user.path().write_text("[trust]\nrequire_signed = true\n")


def looks(at: Layout) -> tuple[str, dict[str, bytes]]:
    return git(at.root, "rev-parse", "HEAD"), content(at.state)


def test_a_commit_of_mvc_is_signed_where_git_is_told_to(team: Team) -> None:
    team.sign("ada")
    commit(team.a, 2)
    found = verify.verify(team.a)
    assert [each.verdict for each in found.signatures] == [
        "good",
        "unsigned",
        "unsigned",
        "unsigned",
    ]
    assert not found.good
    assert verify.verify(team.a, "@2", 1).good


@pytest.mark.parametrize("who", [None, "eve"])
def test_pull_and_checkout_refuse_and_change_nothing(team: Team, who: str | None) -> None:
    team.sign(who)
    new = commit(team.a, 2)
    push.push(team.a)
    require_signed()
    before = looks(team.b)
    with pytest.raises(SignatureError, match=new[:10]):
        pull.pull(team.b)
    assert looks(team.b) == before
    with pytest.raises(SignatureError, match=new[:10]):
        checkout.checkout(team.b, "origin/main")
    with pytest.raises(SignatureError, match=new[:10]):
        rollback.rollback(team.b, "origin/main")
    assert looks(team.b) == before
    assert git(team.b.root, "status", "--porcelain") == ""


def test_pull_takes_what_a_friend_signed(team: Team) -> None:
    team.sign("ada")
    new = commit(team.a, 2)
    push.push(team.a)
    require_signed()
    pull.pull(team.b)
    assert looks(team.b) == looks(team.a)
    assert looks(team.b)[0] == new


def test_a_repo_cannot_lower_what_its_user_asks(team: Team) -> None:
    """The configuration is read from the user's folder only."""
    team.sign(None)
    (team.a.root / "config.toml").write_text("[trust]\nrequire_signed = false\n")
    git(team.a.root, "add", "config.toml")
    commit(team.a, 2)
    git(team.a.root, "commit", "-q", "-m", "config")
    push.push(team.a)
    require_signed()
    with pytest.raises(SignatureError):
        pull.pull(team.b)


def test_the_command(
    team: Team, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    team.sign("ada")
    commit(team.a, 2)
    snapshot.snapshot(team.a)
    monkeypatch.chdir(team.a.root)
    assert main.run(["verify"]) == 1
    told = capsys.readouterr().out
    assert "2 good, 3 unsigned" in told
    assert "ada@example.org" in told
    assert "snapshot/" in told
    assert main.run(["verify", "-1", "HEAD"]) == 0
    assert "All signed: 2 good" in capsys.readouterr().out
    assert main.run(["verify", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["good"] is False
    assert document["required"] is False
    assert {"kind", "name", "commit", "verdict", "signer", "key"} <= set(document["signatures"][0])
    assert main.run(["verify", "no-such"]) == 1
