"""Signatures of commits and snapshot tags, checked by git's own machinery.

Owns asking git (GPG keys, SSH keys with `gpg.ssh.allowedSignersFile`) and what its answers mean.
Which keys are trusted is the user's git configuration, never the repo's. Refuses to guess: what
git cannot check counts as a stranger's. Replacement refs are ignored, so that what is checked is
the object of that name and no other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mvc.errors import SignatureError
from mvc.sharing import Signature, Verdict
from mvc.store import git, user
from mvc.store.layout import SNAPSHOT_PREFIX, Layout

# git-log(1), %G?
_LETTERS: dict[str, tuple[Verdict, str]] = {
    "G": ("good", ""),
    "U": ("stranger", "the signature holds, but its key is not among those that you trust"),
    "B": ("bad", "the signature does not match the content"),
    "X": ("bad", "the signature has expired"),
    "Y": ("bad", "the key has expired; import it again if its owner has extended it"),
    "R": ("bad", "the key was revoked"),
    "E": ("stranger", "the key is not on this machine"),
    "N": ("unsigned", ""),
}
# gnupg/doc/DETAILS, the status lines; the first that is there decides.
_STATUS: tuple[tuple[str, str], ...] = (
    ("BADSIG", "B"),
    ("REVKEYSIG", "R"),
    ("EXPKEYSIG", "Y"),
    ("EXPSIG", "X"),
    ("ERRSIG", "E"),
    ("TRUST_UNDEFINED", "U"),
    ("TRUST_NEVER", "U"),
    ("GOODSIG", "G"),
)
_OF_KEYS = {word for word, _ in _STATUS if word.endswith("SIG")}
_SSH_GOOD = re.compile(r'Good "git" signature for (.+) with (\S+ key \S+)')
_SSH_KEY = re.compile(r'Good "git" signature with (\S+ key \S+)')
_UNCHECKED = "git could not check it: set gpg.ssh.allowedSignersFile to a file of keys you trust"
_SIGNED = re.compile(rb"^gpgsig(-sha256)? ", re.MULTILINE)


def commits(root: Path, revs: Sequence[str], limit: int | None = None) -> list[Signature]:
    """The signatures of the commits that `git log REVS` lists, newest first.

    Args:
        root: The model repo.
        revs: Full hashes, `^HASH` to leave out what that one reaches.
        limit: How many commits at most.

    Raises:
        GitFailed: a hash names no commit.
    """
    options = [f"--max-count={limit}"] if limit is not None else []
    told = git.read(
        root,
        *("--no-replace-objects", "log", "-z", "--no-color", "--no-show-signature"),
        *("--format=%H%x00%G?%x00%GS%x00%GK%x00%s", *options, *revs, "--"),
    )
    cells = told.split("\0")
    rows = [cells[at : at + 5] for at in range(0, len(cells) - 4, 5)]
    nothing = [row[0] for row in rows if row[1] == "N"]
    contents = git.cat(root, nothing, exact=True) if nothing else []
    # git says N too where it was not able to look at the signature that is there.
    unseen = {
        name
        for name, text in zip(nothing, contents, strict=True)
        if text and _SIGNED.search(text.partition(b"\n\n")[0])
    }
    return [
        Signature("commit", name, name, "stranger", signer, key, _UNCHECKED, subject)
        if name in unseen
        else Signature("commit", name, name, *_judged(letter, signer, key), subject)
        for name, letter, signer, key, subject in rows
    ]


def _judged(letter: str, signer: str, key: str) -> tuple[Verdict, str, str, str]:
    verdict, detail = _LETTERS.get(letter, ("bad", f"git answers {letter!r}"))
    return verdict, signer, key, detail


def snapshots(
    root: Path, commits: Sequence[str] | None = None, *, remote: str | None = None
) -> list[Signature]:
    """The signatures of the snapshot tags, by name; only those at `commits` where these are given.

    With `remote` those of its tags, as they were last seen there.

    A lightweight tag is unsigned; a tag object under another name than its own is bad: it was
    signed for another day.
    """
    prefix = f"refs/mvc/{remote}/" if remote else "refs/tags/"
    form = "%(refname)%00%(objecttype)%00%(objectname)%00%(*objectname)%00%(subject)"
    told = git.read(root, "for-each-ref", f"--format={form}", prefix + SNAPSHOT_PREFIX)
    found = []
    for row in filter(None, told.split("\n")):
        ref, kind, sha, target, subject = row.split("\0")
        name = ref.removeprefix(prefix)
        if commits is not None and (target or sha) not in commits:
            continue
        if kind != "tag":
            found.append(Signature("tag", name, sha, "unsigned", "", "", "", subject))
            continue
        text = (git.cat(root, [sha], exact=True)[0] or b"").decode(errors="replace")
        verdict, signer, key, detail = _tag(root, sha, text)
        if f"\ntag {name}\n" not in text.partition("\n\n")[0] + "\n":
            verdict, detail = "bad", "it was made under another name than it has here"
        found.append(Signature("tag", name, target, verdict, signer, key, detail, subject))
    return found


def _tag(root: Path, sha: str, text: str) -> tuple[Verdict, str, str, str]:
    """What git says of one tag object."""
    if not re.search(r"^-----BEGIN (PGP|SSH|SIGNED) ", text, re.MULTILINE):
        return _judged("N", "", "")
    status, said = git.said(root, "--no-replace-objects", "verify-tag", "--raw", sha)
    if ssh := _SSH_GOOD.search(said):
        return _judged("G" if status == 0 else "B", ssh[1], ssh[2])
    if ssh := _SSH_KEY.search(said):
        return _judged("U", "", ssh[1])
    if "BEGIN SSH" in text:
        if "allowedSignersFile" in said:
            return "stranger", "", "", _UNCHECKED
        return _judged("B", "", "")
    lines = re.findall(r"^\[GNUPG:\] (\w+) ?(\S*) ?(.*)$", said, re.MULTILINE)
    for word, letter in _STATUS:
        if any(line[0] == word for line in lines):
            _, key, signer = next((x for x in lines if x[0] in _OF_KEYS), ("", "", ""))
            return _judged(letter, signer if letter in "GUXYR" else "", key)
    return "stranger", "", "", f"git could not check it: {said.strip().splitlines()[-1:]}"


def require(layout: Layout, commit: str) -> None:
    """Hold `commit`, and all between it and HEAD, against what the user asks for.

    Does nothing unless the user's own configuration says `require_signed`. A commit without a
    signature of its own is taken where a good snapshot tag vouches for it.

    Raises:
        SignatureError: one is unsigned, a stranger's, or bad.
        ConfigError: the user's configuration cannot be read.
    """
    if not user.load().trust.require_signed:
        return
    root = layout.root
    head = git.try_read(root, "rev-parse", "-q", "--verify", "HEAD^{commit}")
    found = {each.name: each for each in commits(root, [commit], limit=1)}
    if head is not None:
        found |= {each.name: each for each in commits(root, [commit, f"^{head}"])}
    doubtful = [each for each in found.values() if each.verdict != "good"]
    if not doubtful:
        return
    vouched = {t.commit for t in snapshots(root, list(found)) if t.verdict == "good"}
    for each in doubtful:
        if each.verdict == "bad" or each.name not in vouched:
            raise refused(each)


def refused(found: Signature) -> SignatureError:
    """The error for a commit or tag whose signature is not good."""
    name = found.name[:10] if found.kind == "commit" else found.name
    what = {
        "unsigned": "is not signed",
        "stranger": "is signed by a stranger",
        "bad": "has a bad signature",
    }.get(found.verdict, "is not good")
    who = f" ({' '.join(x for x in (found.signer, found.key) if x)})" if found.key else ""
    return SignatureError(
        f"{found.kind} {name} {what}{who}{': ' if found.detail else ''}{found.detail}",
        f"`mvc verify {found.commit[:10]}` shows all; ask its author to sign, trust the key in "
        f"gpg or in git's gpg.ssh.allowedSignersFile, or change [trust] in {user.path()}",
    )
