"""Where histories begin: refs, the HEADs of work trees, and what git's reflogs remember.

Owns telling a ref that git can read from one that it cannot. Reflogs are read as files: git's own
walk of one tells where a ref came to, not what it left, and ends at the first pruned commit.
Changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mvc.errors import StoreError
from mvc.store import git
from mvc.store.layout import Layout

WORK_TREE = "HEAD of "
"""How the HEAD of another work tree (`git worktree`) is named, before its folder."""

_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_ENTRY = re.compile(r"([0-9a-f]{40,64}) ([0-9a-f]{40,64}) [^\t\n]*> (\d+) [+-]\d{4}(?:\t|$)")
_FORM = "--format=%(refname)%00%(objectname)%00%(*objectname)%00%(objecttype)%00%(*objecttype)"


class Tips(msgspec.Struct, frozen=True):
    """What the refs name.

    `commits` are those of refs by their full name, of `HEAD`, and of `HEAD of FOLDER` where there
    are other work trees; `unreadable` the refs that lead to what git cannot read.
    """

    commits: dict[str, str]
    unreadable: tuple[str, ...]


def look(layout: Layout) -> Tips:
    """Look at every ref.

    Raises:
        StoreError: git cannot read the commit that HEAD is on.
    """
    root, bad = layout.root, list[str]()
    try:
        found = _quick(root)
    except git.GitFailed:  # one ref that names nothing hides all the others
        found, bad = _slow(root)
    head = git.try_read(root, "rev-parse", "-q", "--verify", "HEAD^{commit}")
    branch = git.try_read(root, "symbolic-ref", "-q", "HEAD")
    if head is None and branch in bad:
        raise StoreError(
            f"git cannot read the commit that {branch} names, on which HEAD is",
            f"`git fsck` tells more; `git reflog show {branch}` where it was before",
        )
    return Tips(found | ({"HEAD": head} if head else {}) | _work_trees(root), tuple(bad))


def recent(layout: Layout, since: datetime) -> set[str]:
    """What refs came to or left since then; what of it git has pruned is among them."""
    return {
        name
        for path in _logs(layout)
        for *names, when in _entries(path)
        if when >= since
        for name in names
    }


def was(layout: Layout, ref: str) -> list[str]:
    """What a ref has named, the newest first, as far as its reflog tells."""
    entries = list(_entries(_folder(layout) / ref))
    return list(dict.fromkeys(name for old, new, _ in reversed(entries) for name in (new, old)))


def unreadable(layout: Layout, found: Tips) -> StoreError:
    """The error for a history in which some commit cannot be read: the commit and a ref to it."""
    first = sorted(found.commits, key=lambda ref: (ref != "HEAD", "refs/heads/" not in ref, ref))
    for ref in first:
        status, said = git.said(layout.root, "rev-list", "--count", found.commits[ref], "--")
        if status:
            commit = _HASH.search(said)
            what = f"commit {commit[0][:10]}" if commit else "a commit"
            told = f"git cannot read {what}, in the history of {ref}"
            break
    else:
        told = "git cannot read the history"
    return StoreError(f"{told}: what it needs cannot be told", "`git fsck` tells what is damaged")


def _quick(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in git.lines(git.read(root, "for-each-ref", _FORM)):
        ref, name, peeled, kind, peeled_kind = line.split("\0")
        if "commit" in (kind, peeled_kind):
            found[ref] = peeled or name
        elif peeled_kind == "tag":  # a tag of a tag
            commit = git.try_read(root, "rev-parse", "-q", "--verify", f"{ref}^{{commit}}")
            found |= {ref: commit} if commit else {}
    return found


def _slow(root: Path) -> tuple[dict[str, str], list[str]]:
    """The same where some ref cannot be read; and those."""
    told = git.read(root, "for-each-ref", "--format=%(refname)%00%(objectname)")
    names = dict(line.split("\0") for line in git.lines(told))
    try:
        peeled = _peel(root, list(names.values()))
    except git.GitFailed:  # a damaged object ends the whole look; one that is missing does not
        peeled = [_peeled(root, name) for name in names.values()]
    pairs = list(zip(names, peeled, strict=True))
    commits = {ref: each.split(" ")[0] for ref, each in pairs if each.endswith(" commit")}
    return commits, [ref for ref, each in pairs if each.split(" ")[-1] in ("", "missing")]


def _peel(root: Path, names: list[str]) -> list[str]:
    """Hash and kind of what each leads to, or `... missing`."""
    stdin = "".join(f"{name}^{{}}\n" for name in names).encode()
    form = "--batch-check=%(objectname) %(objecttype)"
    return git.read_bytes(root, "cat-file", form, stdin=stdin).decode().splitlines()


def _peeled(root: Path, name: str) -> str:
    try:
        return _peel(root, [name])[0]
    except git.GitFailed:
        return ""


def _work_trees(root: Path) -> dict[str, str]:
    """The HEADs of the other work trees."""
    if not (root / ".git" / "worktrees").is_dir() and not (root / ".git").is_file():
        return {}
    told = git.try_read(root, "worktree", "list", "--porcelain") or ""
    found: dict[str, str] = {}
    for block in told.split("\n\n"):
        said = dict(line.split(" ", 1) for line in git.lines(block) if " " in line)
        where, head = said.get("worktree", ""), said.get("HEAD", "")
        if where and Path(where) != root.resolve() and head.strip("0"):
            found[f"{WORK_TREE}{where}"] = head
    return found


def _folder(layout: Layout) -> Path:
    common = git.read(layout.root, "rev-parse", "--git-common-dir")
    return layout.root / common / "logs"


def _logs(layout: Layout) -> Iterator[Path]:
    """The reflogs of all refs, in all work trees."""
    logs = _folder(layout)
    for folder in (logs, *logs.parent.glob("worktrees/*/logs")):
        yield from (path for path in folder.rglob("*") if path.is_file())


def _entries(path: Path) -> Iterator[tuple[str, str, datetime]]:
    """What a ref left and came to, and when, oldest first."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in git.lines(text):
        if found := _ENTRY.match(line):
            with_time = datetime.fromtimestamp(int(found[3]), UTC)
            yield found[1], found[2], with_time
