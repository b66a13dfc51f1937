"""Running git: reads, and writes that are on the disk when they return.

Owns how git is called: no prompts, no pager, a stable locale, every write fsynced. Refuses to
know what a commit means (`history`) or which files belong in one (`workspace`).

Always the git program itself, never GitPython: importing that costs 142 ms (FACTS.md), and it too
starts the program.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread

from mvc.errors import StoreError

_ENV = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
    "LC_ALL": "C.UTF-8",
    "GIT_OPTIONAL_LOCKS": "0",
    # Into a pipe `git log` writes each commit alone, which takes a reader 4 us more for each.
    "GIT_FLUSH": "0",
}
# core.fsync defaults to leaving loose objects unsynced; a commit must survive a power cut
# (git-config(1), core.fsync).
_DURABLE = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync", "-c", "gc.auto=0")

_PIECE = 1 << 16
_FULL_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

NO_ROOM = "(the disk is full)"
_ROOM_BYTES = 64 * 1024


class GitFailed(StoreError):
    """git ended with an error; `status` is its exit code and `stderr` what it said."""

    def __init__(self, args: Sequence[str], status: int, stderr: str) -> None:
        last = stderr.strip().splitlines()[-1] if stderr.strip() else f"exit code {status}"
        super().__init__(
            f"git {args[0] if args else ''} failed: {last.removeprefix('fatal: ')}",
            "run `mvc status` to see where the repo stands, or `git fsck` to check it",
        )
        self.args = (list(args), status, stderr)  # so that it can be pickled
        self.status = status
        self.stderr = stderr


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **_ENV, **(extra or {})}


def read_bytes(root: Path, *args: str, stdin: bytes | None = None) -> bytes:
    """Run a reading git command in `root` and return its stdout.

    Raises:
        GitFailed: git ended with a non-zero exit code.
        StoreError: there is no git on this machine.
    """
    try:
        done = subprocess.run(
            ["git", *args],
            cwd=root,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=_environment(None),
            check=False,
        )
    except FileNotFoundError as error:
        raise _no_git() from error
    if done.returncode:
        raise GitFailed(args, done.returncode, done.stderr.decode(errors="replace"))
    return done.stdout


def read_cells(root: Path, *args: str) -> Iterator[str]:
    """What a reading git command prints, cut at each NUL, while it still prints.

    Raises:
        GitFailed: git ended with a non-zero exit code.
        StoreError: there is no git on this machine.
    """
    try:
        process = subprocess.Popen(
            ["git", *args],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(None),
        )
    except FileNotFoundError as error:
        raise _no_git() from error
    assert process.stdout is not None and process.stderr is not None
    said: list[bytes] = []
    # A git with more to complain of than a pipe holds would wait for a reader of it.
    listener = Thread(target=lambda pipe: said.append(pipe.read()), args=(process.stderr,))
    with process:
        listener.start()
        parts: list[bytes] = []
        while piece := process.stdout.read1(_PIECE):  # type: ignore[attr-defined]
            whole, nul, rest = piece.rpartition(b"\0")
            if nul:  # only then joined: one cell may be a message of many megabytes
                # Decoded before it is cut: cell by cell takes 8 times as long.
                yield from b"".join((*parts, whole)).decode(errors="replace").split("\0")
                parts = []
            parts.append(rest)
        listener.join()
    if process.returncode:
        raise GitFailed(args, process.returncode, b"".join(said).decode(errors="replace"))


def _no_git() -> StoreError:
    return StoreError("git is not installed", "install git, version 2.36 or newer")


def read(root: Path, *args: str) -> str:
    """Like `read_bytes`, as text without the last newline."""
    return read_bytes(root, *args).decode(errors="replace").removesuffix("\n")


def lines(told: str) -> list[str]:
    """The lines of what git said, the empty ones left out.

    Not `splitlines`: a ref's name may hold U+2028 and the like, and those end no line.
    """
    return [line for line in told.split("\n") if line]


def is_hash(name: str) -> bool:
    """Whether `name` is a full hash; whatever else names a commit may name another one later."""
    return _FULL_HASH.fullmatch(name) is not None


def try_read(root: Path, *args: str) -> str | None:
    """Like `read`, but None where git answers with an error."""
    try:
        return read(root, *args)
    except GitFailed:
        return None


def said(root: Path, *args: str) -> tuple[int, str]:
    """The exit code and the stderr of a reading git command, where a failure is an answer."""
    done = subprocess.run(
        ["git", *args],
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=_environment(None),
        check=False,
    )
    return done.returncode, done.stderr.decode(errors="replace")


def cat(root: Path, names: Sequence[str], *, exact: bool = False) -> list[bytes | None]:
    """The content of many objects (`COMMIT:PATH`) by one git; None for one that is not there.

    `exact` reads the object of that name even where refs/replace offers another.
    """
    stdin = "".join(f"{name}\n" for name in names).encode()
    how = ("--no-replace-objects",) if exact else ()
    out = memoryview(read_bytes(root, *how, "cat-file", "--batch", stdin=stdin))
    found: list[bytes | None] = []
    at = 0
    for _ in names:
        end = bytes(out[at : at + 4096]).index(b"\n") + at
        header = bytes(out[at:end]).split(b" ")
        at = end + 1
        if header[-1] == b"missing":
            found.append(None)
            continue
        size = int(header[-1])
        found.append(bytes(out[at : at + size]))
        at += size + 1
    return found


def write(
    root: Path, *args: str, env: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> str:
    """Run a git command that changes the repository, durably, and return its stdout.

    Raises:
        GitFailed: git ended with a non-zero exit code.
    """
    done = subprocess.run(
        ["git", *_DURABLE, *args],
        cwd=root,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        env=_environment(env),
        check=False,
    )
    if done.returncode:
        told = done.stderr.decode(errors="replace")
        raise GitFailed(args, done.returncode, told + _no_room(root, f"{args} {told}"))
    return done.stdout.decode(errors="surrogateescape").removesuffix("\n")


def _no_room(root: Path, told: str) -> str:
    """`NO_ROOM` where git could not write and the disk is full: of a ref it does not say why."""
    disk = os.statvfs(root)
    full = disk.f_bavail * disk.f_frsize < _ROOM_BYTES
    return f" {NO_ROOM}" if full and "write" in told else ""


def identity(root: Path) -> dict[str, str]:
    """Environment variables that name an author where the user has configured none.

    A commit must never fail at 3 AM for want of a name, so the login name stands in.
    """
    import getpass

    try:
        login = getpass.getuser()
    except (OSError, KeyError):
        login = "mvc"
    found: dict[str, str] = {}
    for role in ("AUTHOR", "COMMITTER"):
        for what, key, fallback in (
            ("NAME", "user.name", login),
            ("EMAIL", "user.email", f"{login}@localhost"),
        ):
            variable = f"GIT_{role}_{what}"
            if variable not in os.environ and try_read(root, "config", "--get", key) is None:
                found[variable] = fallback
    return found
