"""Branches and snapshot tags on their way between this clone and a git remote.

Owns fetching and pushing refs, and telling how two lines relate. Never forces: a branch on the
remote moves forward or not at all, a snapshot that differs is told and never overwritten, on
neither side. Objects are `transfer`'s, and moving the branch here is `workspace`'s.

What the remote's snapshots are is kept under `refs/mvc/REMOTE/snapshot/`, apart from ours.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from mvc.errors import RemoteError
from mvc.store import git, signatures, user
from mvc.store.git_locks import marked, pushed
from mvc.store.layout import SNAPSHOT_PREFIX, Layout, day_of

_USERINFO = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s'\"]*@", re.IGNORECASE)
_QUERY = re.compile(r"([a-z][a-z0-9+.-]*://[^\s'\"?]*\?)[^\s'\"]*", re.IGNORECASE)
# A stranger's packs are checked as they come; no submodule is ever followed.
_CAREFUL = ("-c", "fetch.fsckObjects=true", "-c", "submodule.recurse=false")
# What git says, on either side, when a ref is not (or no longer) what the push counted on.
_OUTRUN = (
    "[rejected]",
    "cannot lock ref",
    "failed to update ref",
    "failed to lock",
    "atomic transaction failed",
    "incorrect old value",
    "reference already exists",
)
_IN_THE_WAY = "exists; cannot create"


class Rejected(RemoteError):
    """The remote's refs moved since they were looked at; nothing was changed there."""


class Seen(msgspec.Struct, frozen=True):
    """What a look at the remote's refs found.

    `new_snapshots` (tags, `snapshot/DAY`) came with it, `differing` are on both sides with
    another content, and each side keeps its own. `unsent` are those that the remote lacks, and
    the objects that they name.
    """

    new_snapshots: tuple[str, ...]
    differing: tuple[str, ...]
    unsent: dict[str, str]


def scrub(text: str) -> str:
    """`text` without what URLs in it hold of users, passwords and tokens."""
    return _QUERY.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def tracking(remote: str, branch: str) -> str:
    """The ref that remembers where `branch` is on `remote`."""
    return f"refs/remotes/{remote}/{branch}"


def fetch_refs(layout: Layout, remote: str, *, tags: bool = False) -> Seen:
    """Bring the remote's commits: branches to `refs/remotes/REMOTE/`, snapshots that are new here.

    What is gone over there is forgotten. No branch of ours moves, and a snapshot that we have
    stays as it is. Where the user asks for signatures, a snapshot without a good one is not taken.
    With `tags` all of its tags come too, to `refs/mvc/REMOTE/tag/`.

    Raises:
        Rejected: another process was at the same refs.
        RemoteError: the remote cannot be reached or read.
    """
    root, theirs = layout.root, f"refs/mvc/{remote}/"
    with marked(layout):
        if not tags:  # what was removed over there must not be taken for present
            _set(root, [f"delete {ref}" for ref in _refs(root, f"{theirs}tag/")])
        _network(
            layout,
            remote,
            *(*_CAREFUL, "fetch", "--quiet", "--prune", "--no-tags"),
            "--no-write-fetch-head",
            *("--recurse-submodules=no", "--no-auto-maintenance", "--end-of-options", remote),
            f"+refs/heads/*:{tracking(remote, '*')}",
            f"+refs/tags/{SNAPSHOT_PREFIX}*:{theirs}{SNAPSHOT_PREFIX}*",
            f"+refs/mvc/gc/*:{theirs}gc/*",
            *([f"+refs/tags/*:{theirs}tag/*"] if tags else []),
        )
        here, there = _snapshots(root, "refs/tags/", theirs)
        new = {tag: found for tag, found in there.items() if tag not in here}
        if new and user.load().trust.require_signed:
            # A tag that nobody signed could lead a checkout by date to another day's commit. Told
            # where the remote's are kept: one of ours that a kill left would stay.
            judged = signatures.snapshots(root, remote=remote)
            good = {each.name for each in judged if each.verdict == "good"}
            new = {tag: found for tag, found in new.items() if tag in good}
        try:
            _set(root, [f"create refs/tags/{tag} {found}" for tag, found in new.items()])
        except Rejected:  # another fetch may have made the very same
            now = snapshots(root)
            if any(now.get(tag) != found for tag, found in new.items()):
                raise
    differing = (tag for tag in there if tag in here and here[tag] != there[tag])
    unsent = {tag: found for tag, found in here.items() if tag not in there}
    return Seen(tuple(sorted(new)), tuple(sorted(differing)), unsent)


def push_refs(layout: Layout, remote: str, refs: Mapping[str, str]) -> None:
    """Set refs on the remote, all or none; a branch only forward, a tag only where there is none.

    Args:
        layout: The repo.
        remote: The git remote's name.
        refs: Full ref names (`refs/heads/main`) and the objects that they shall name.

    Raises:
        Rejected: one of them is something else over there by now.
        RemoteError: the remote cannot be reached, or refuses.
    """
    with marked(layout, pushed(layout, remote, refs)):
        _network(
            layout,
            remote,
            *("push", "--quiet", "--atomic", "--no-follow-tags", "--recurse-submodules=no"),
            *("--end-of-options", remote, *(f"{found}:{ref}" for ref, found in refs.items())),
        )


def head_branch(layout: Layout, url: str) -> str | None:
    """The branch that a clone of `url` begins on; None where there is no commit.

    Raises:
        RemoteError: `url` cannot be reached, or is no git repository.
    """
    told = _network(layout, url, "ls-remote", "--quiet", "--symref", "--end-of-options", url)
    branches = [line.split("\trefs/heads/")[1] for line in git.lines(told) if "\trefs/h" in line]
    first = told.split("\n", 1)[0]
    named = first.removeprefix("ref: refs/heads/").removesuffix("\tHEAD")
    if first.startswith("ref: refs/heads/") and named in branches:
        return named
    return "main" if "main" in branches else next(iter(branches), None)


def fetch_branch(layout: Layout, url: str, branch: str) -> str:
    """Bring one branch by URL, without a remote or a ref for it; returns its commit.

    Raises:
        RemoteError: it cannot be reached or read.
    """
    _network(
        layout,
        url,
        *(*_CAREFUL, "fetch", "--quiet", "--no-tags", "--recurse-submodules=no"),
        *("--no-auto-maintenance", "--end-of-options", url, f"refs/heads/{branch}"),
    )
    return git.read(layout.root, "rev-parse", "FETCH_HEAD^{commit}")


def snapshots(root: Path, remote: str | None = None) -> dict[str, str]:
    """Snapshot tags (`snapshot/DAY`) and the objects that they name; the remote's as last seen.

    A tag of something else than a commit is no snapshot, nor is one of a day in no calendar.
    """
    return _snapshots(root, f"refs/mvc/{remote}/" if remote else "refs/tags/")[0]


def _snapshots(root: Path, *prefixes: str) -> list[dict[str, str]]:
    """The snapshots below each of the prefixes, by one git."""
    found = _refs(root, *(f"{each}{SNAPSHOT_PREFIX}" for each in prefixes), commits=True)
    return [
        {tag: name for ref, name in found.items() if day_of(tag := ref.removeprefix(each))}
        for each in prefixes
    ]


def branches(root: Path, remote: str) -> tuple[str, ...]:
    """The remote's branches, as last seen."""
    prefix = tracking(remote, "")
    names = (ref.removeprefix(prefix) for ref in _refs(root, prefix))
    return tuple(name for name in names if name != "HEAD")


def recording(root: Path) -> list[str]:
    """The remotes, as last seen, that have a record of what `mvc gc` gave up there."""
    told = git.try_read(root, "for-each-ref", "--format=%(refname)", "refs/mvc/*/gc/collected")
    return [ref.split("/")[2] for ref in git.lines(told or "")]


def unsent(root: Path, remote: str, tips: Iterable[str]) -> list[str]:
    """The commits that `tips` reach and nothing on the remote does, newest first."""
    return _reached_by(root, tips, _theirs(root, remote))


def ancestors(root: Path, tips: Iterable[str]) -> list[str]:
    """Every commit that `tips` reach, newest first."""
    return _reached_by(root, tips)


def reached(root: Path, remote: str) -> list[str]:
    """Every commit that the remote's branches and snapshots reach, newest first."""
    return _reached_by(root, _theirs(root, remote))


def _theirs(root: Path, remote: str) -> set[str]:
    """What the remote's refs name: by its hash, for a ref's name need not be text."""
    return set(_refs(root, tracking(remote, ""), f"refs/mvc/{remote}/").values())


def _reached_by(root: Path, tips: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    asked = [*tips, *(f"^{each}" for each in without)]
    if not asked:
        return []
    stdin = "".join(f"{each}\n" for each in asked).encode()
    return git.read_bytes(root, "rev-list", "--stdin", stdin=stdin).decode().split()


def ahead_behind(root: Path, a: str, b: str) -> tuple[int, int]:
    """How many commits `a` has that `b` lacks, and the reverse."""
    left, right = git.read(root, "rev-list", "--left-right", "--count", f"{a}...{b}", "--").split()
    return int(left), int(right)


def common(root: Path, a: str, b: str) -> str | None:
    """The last commit that both have; None where they have none."""
    return git.try_read(root, "merge-base", a, b)


def authors(root: Path, commits: Sequence[str]) -> dict[str, str]:
    """Who made each of the commits."""
    if not commits:
        return {}
    told = git.read(root, "log", "--no-walk", "--format=%H%x00%an", *commits, "--")
    return dict(line.split("\0", 1) for line in git.lines(told) if "\0" in line)


def follow(layout: Layout, branch: str, remote: str) -> None:
    """Let `branch` follow the remote's branch of that name, unless it follows one already."""
    root, key = layout.root, f"branch.{branch}"
    if git.try_read(root, "config", "--get", f"{key}.merge"):
        return
    with marked(layout):
        git.write(root, "config", f"{key}.remote", remote)
        git.write(root, "config", f"{key}.merge", f"refs/heads/{branch}")


def _set(root: Path, lines: Sequence[str]) -> None:
    """Have git change refs, all or none, as these lines of `git update-ref --stdin` say."""
    if not lines:
        return
    try:
        git.write(root, "update-ref", "--stdin", stdin="".join(f"{x}\n" for x in lines).encode())
    except git.GitFailed as error:
        if any(sign in error.stderr for sign in _OUTRUN):
            raise Rejected(
                "another process changed the refs of this repo at the same moment",
                "run the same command again",
            ) from error
        raise


def _refs(root: Path, *prefixes: str, commits: bool = False) -> dict[str, str]:
    """The refs below `prefixes` and what they name; with `commits` those that lead to a commit."""
    form = "--format=%(refname)%00%(objectname)"
    if commits:  # only then: git has to open each object
        form += "%00%(objecttype)%00%(*objecttype)"
    told = (
        git.try_read(root, "for-each-ref", form, *(each.removesuffix("/") for each in prefixes))
        or ""
    )
    rows = [line.split("\0") for line in git.lines(told)]
    return {ref: name for ref, name, *kinds in rows if not commits or "commit" in kinds}


_STALLED = ("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=120")
"""A server that sends nothing for two minutes is gone (git-config, http.lowSpeedTime)."""


def _ssh(layout: Layout) -> dict[str, str]:
    """An ssh that gives up on a connection that is dead, and asks nobody where nobody is.

    What the user has set (GIT_SSH_COMMAND, GIT_SSH, core.sshCommand) is left alone.
    """
    chosen = {"GIT_SSH_COMMAND", "GIT_SSH"} & os.environ.keys()
    if chosen or git.try_read(layout.root, "config", "core.sshCommand"):
        return {}
    words = ["ssh", "-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=30"]
    words += [] if sys.stdin and sys.stdin.isatty() else ["-o", "BatchMode=yes"]
    return {"GIT_SSH_COMMAND": " ".join(words)}


def _network(layout: Layout, remote: str, *args: str) -> str:
    """Run a git command that talks to `remote` (a name or URL), its errors made fit to show."""
    try:
        return git.write(layout.root, *_STALLED, *args, env=_ssh(layout))
    except git.GitFailed as error:
        said = scrub(error.stderr.strip().removeprefix("stderr: '").removesuffix("'").strip())
        name = scrub(remote)
    # `from None`: git's own words, and GitPython's command line, may hold a password
    if _IN_THE_WAY in said:  # a branch `x` and a branch `x/y` cannot both be
        raise RemoteError(
            f"{name} has a branch in the way: {_reason(said)}",
            "give yours another name (`git branch -m NAME`), or remove that one there",
        ) from None
    if any(sign in said for sign in _OUTRUN):
        raise Rejected(
            f"somebody else changed {name} at the same moment: {_reason(said)}",
            "run the same command again; should a killed git have left a `.lock` file, delete it",
        ) from None
    raise RemoteError(
        f"{name} cannot be used: {_reason(said)}",
        f"`mvc remote` shows its URLs; `git ls-remote {name}` tells whether you have access",
    ) from None


def _reason(said: str) -> str:
    """The line of git's words that says why."""
    lines = [line.strip().removeprefix("remote: ") for line in said.splitlines() if line.strip()]
    for start in ("fatal: ", "error: ", " ! "):
        for line in lines:
            if line.startswith(start.strip()):
                return line.removeprefix(start.strip()).strip()
    return lines[-1] if lines else "git gave no reason"
