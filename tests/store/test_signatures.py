"""Signatures as git checks them: SSH and GPG keys, tags, and what the user's configuration asks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvc.errors import ConfigError, SignatureError
from mvc.store import signatures, user
from mvc.store.layout import Layout


def git(root: Path, *args: str, **env: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=root, capture_output=True, text=True, env=os.environ | env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ssh_key(folder: Path, name: str) -> Path:
    """An SSH key without a passphrase; its public half lies beside it."""
    path = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
    subprocess.run(command, check=True)
    return path


class Repo:
    """A git repository in which Ada's SSH key is trusted and Eve's is not."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repo"
        self.at = Layout(self.root)
        self.keys = {name: ssh_key(folder, name) for name in ("ada", "eve")}
        self.allowed = folder / "allowed"
        public = self.keys["ada"].with_suffix(".pub").read_text()
        self.allowed.write_text(f"ada@example.org {public}")
        subprocess.run(["git", "init", "-q", "-b", "main", self.root], check=True)
        git(self.root, "config", "gpg.format", "ssh")
        git(self.root, "config", "gpg.ssh.allowedSignersFile", str(self.allowed))

    def commit(self, signer: str | None, message: str = "a commit") -> str:
        sign = ["-S", "-q"] if signer else ["--no-gpg-sign", "-q"]
        self._key(signer)
        git(self.root, "commit", "--allow-empty", "-m", message, *sign)
        return git(self.root, "rev-parse", "HEAD")

    def tag(self, signer: str | None, day: str, commit: str = "HEAD") -> None:
        self._key(signer)
        git(self.root, "tag", "-s" if signer else "-a", "-m", "pin", f"snapshot/{day}", commit)

    def _key(self, signer: str | None) -> None:
        if signer:
            git(self.root, "config", "user.signingKey", str(self.keys[signer]))

    def forge(self, commit: str) -> str:
        """The commit with another message under the same signature; HEAD moves there."""
        raw = git(self.root, "cat-file", "commit", commit)
        command = ["git", "hash-object", "-t", "commit", "-w", "--stdin"]
        text = f"{raw} (forged)\n"
        done = subprocess.run(command, cwd=self.root, input=text, capture_output=True, text=True)
        git(self.root, "reset", "-q", "--soft", done.stdout.strip())
        return done.stdout.strip()

    def verdicts(self) -> list[str]:
        head = git(self.root, "rev-parse", "HEAD")
        return [each.verdict for each in signatures.commits(self.root, [head])]


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path)


@pytest.fixture
def require(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own configuration asks for signatures."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    user.path().parent.mkdir(parents=True)
    user.path().write_text("[trust]\nrequire_signed = true\n")


def test_each_verdict(repo: Repo) -> None:
    repo.commit(None)
    repo.commit("ada")
    repo.commit("eve")
    assert repo.verdicts() == ["stranger", "good", "unsigned"]
    forged = repo.forge(repo.commit("ada"))
    found = signatures.commits(repo.root, [forged])
    assert [each.verdict for each in found] == ["bad", "stranger", "good", "unsigned"]
    assert found[2].signer == "ada@example.org"
    assert found[1].key.startswith("SHA256:")
    assert all(each.detail for each in found[:2])
    assert len(signatures.commits(repo.root, [forged], limit=1)) == 1


def test_what_git_cannot_check_is_a_stranger_s_not_unsigned(repo: Repo) -> None:
    repo.commit("ada")
    git(repo.root, "config", "--unset", "gpg.ssh.allowedSignersFile")
    head = git(repo.root, "rev-parse", "HEAD")
    (found,) = signatures.commits(repo.root, [head])
    assert found.verdict == "stranger"
    assert "allowedSignersFile" in found.detail


def test_a_replaced_commit_is_not_what_is_checked(repo: Repo) -> None:
    """refs/replace would let a good commit answer for a bad one."""
    good, bad = repo.commit("ada"), repo.commit(None)
    git(repo.root, "replace", bad, good)
    assert [e.verdict for e in signatures.commits(repo.root, [bad], limit=1)] == ["unsigned"]


def test_tags(repo: Repo) -> None:
    commit = repo.commit(None)
    for number, signer in enumerate((None, "ada", "eve"), 1):
        repo.tag(signer, f"2026-11-0{number}")
    git(repo.root, "tag", "snapshot/2026-11-04")
    found = {each.name[-1]: each for each in signatures.snapshots(repo.root)}
    verdicts = {name: each.verdict for name, each in found.items()}
    assert verdicts == {"1": "unsigned", "2": "good", "3": "stranger", "4": "unsigned"}
    assert {each.commit for each in found.values()} == {commit}
    assert found["2"].signer == "ada@example.org"
    assert signatures.snapshots(repo.root, ["0" * 40]) == []


def test_a_good_tag_under_another_day_is_bad(repo: Repo) -> None:
    repo.commit(None)
    repo.tag("ada", "2026-11-01")
    sha = git(repo.root, "rev-parse", "snapshot/2026-11-01")
    git(repo.root, "update-ref", "refs/tags/snapshot/2026-11-09", sha)
    verdicts = {each.name[-1]: each.verdict for each in signatures.snapshots(repo.root)}
    assert verdicts == {"1": "good", "9": "bad"}


def test_a_forged_tag_is_bad(repo: Repo) -> None:
    repo.commit(None)
    repo.tag("ada", "2026-11-01")
    raw = git(repo.root, "cat-file", "tag", "snapshot/2026-11-01").replace("pin", "pan", 1) + "\n"
    command = ["git", "hash-object", "-t", "tag", "-w", "--stdin"]
    done = subprocess.run(command, cwd=repo.root, input=raw, capture_output=True, text=True)
    git(repo.root, "update-ref", "refs/tags/snapshot/2026-11-01", done.stdout.strip())
    assert [each.verdict for each in signatures.snapshots(repo.root)] == ["bad"]


def test_nothing_is_asked_by_default(repo: Repo) -> None:
    signatures.require(repo.at, repo.commit(None))


@pytest.mark.parametrize("signer", [None, "eve"])
def test_what_is_not_good_is_refused(repo: Repo, require: None, signer: str | None) -> None:
    signatures.require(repo.at, repo.commit("ada"))
    commit = repo.commit(signer)
    with pytest.raises(SignatureError) as caught:
        signatures.require(repo.at, commit)
    assert commit[:10] in caught.value.message
    assert ("not signed" if signer is None else "stranger") in caught.value.message
    assert "mvc verify" in caught.value.hint


def test_every_commit_that_is_new_here_is_asked(repo: Repo, require: None) -> None:
    """A good newest one does not speak for what somebody slipped in before."""
    start = repo.commit("ada")
    repo.commit(None, "slipped in")
    tip = repo.commit("ada")
    git(repo.root, "checkout", "-q", start)
    with pytest.raises(SignatureError, match="not signed"):
        signatures.require(repo.at, tip)
    git(repo.root, "checkout", "-q", "main")
    signatures.require(repo.at, tip)


def test_a_good_pin_vouches_for_an_unsigned_commit(repo: Repo, require: None) -> None:
    commit = repo.commit(None)
    repo.tag("eve", "2026-11-01")
    with pytest.raises(SignatureError):
        signatures.require(repo.at, commit)
    repo.tag("ada", "2026-11-02")
    signatures.require(repo.at, commit)
    with pytest.raises(SignatureError, match="does not match"):
        signatures.require(repo.at, repo.forge(repo.commit("ada")))


def test_the_user_s_file_is_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped key would protect nothing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert not user.load().trust.require_signed
    user.path().parent.mkdir(parents=True)
    for text in (
        "[trust]\nrequired_signed = true\n",
        "[trust]\nrequire_signed = 1\n",
        "[[[",
        "\xff",
    ):
        user.path().write_bytes(text.encode("latin-1"))
        with pytest.raises(ConfigError, match=r"config\.toml"):
            user.load()
    user.path().write_text(f'[repo."{tmp_path}"]\ndvc_config = true\n')
    assert user.permissions(tmp_path).dvc_config
    assert not user.permissions(tmp_path / "other").dvc_config


@pytest.fixture
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A GPG home with a key that is trusted, and one that is only there."""
    home = tmp_path_factory.mktemp("g")  # short: the agent's socket lies in it
    home.chmod(0o700)
    env = {"GNUPGHOME": str(home)}
    for name in ("ada", "eve"):
        command = ["gpg", "--batch", "--passphrase", "", "--quick-gen-key"]
        command += [f"{name} <{name}@example.org>", "ed25519", "sign", "never"]
        subprocess.run(command, env=os.environ | env, check=True, capture_output=True)
    listed = subprocess.run(
        ["gpg", "--with-colons", "--fingerprint", "eve"],
        env=os.environ | env,
        check=True,
        capture_output=True,
        text=True,
    )
    eve = next(line.split(":")[9] for line in listed.stdout.splitlines() if line.startswith("fpr"))
    subprocess.run(
        ["gpg", "--import-ownertrust"],
        input=f"{eve}:2:\n",  # 2: nothing is known of the owner
        env=os.environ | env,
        check=True,
        capture_output=True,
        text=True,
    )
    yield env
    subprocess.run(["gpgconf", "--kill", "all"], env=os.environ | env, check=False)


def test_gpg(
    repo: Repo, gpg: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GNUPGHOME", gpg["GNUPGHOME"])
    git(repo.root, "config", "gpg.format", "openpgp")
    for number, name in enumerate(("ada", "eve"), 1):
        git(repo.root, "config", "user.signingKey", f"{name}@example.org")
        git(repo.root, "commit", "-q", "-S", "--allow-empty", "-m", name)
        git(repo.root, "tag", "-s", "-m", "pin", f"snapshot/2026-11-0{number}")
    forged = repo.forge(git(repo.root, "rev-parse", "HEAD~1"))
    git(repo.root, "reset", "-q", "--soft", "snapshot/2026-11-02")
    assert repo.verdicts() == ["stranger", "good"]
    assert signatures.commits(repo.root, [forged])[0].verdict == "bad"
    tags = {each.name[-1]: each for each in signatures.snapshots(repo.root)}
    assert {name: each.verdict for name, each in tags.items()} == {"1": "good", "2": "stranger"}
    assert "ada@example.org" in tags["1"].signer
    (tmp_path / "empty").mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "empty"))
    assert repo.verdicts() == ["stranger", "stranger"], "no key here can tell"
    assert {each.verdict for each in signatures.snapshots(repo.root)} == {"stranger"}
