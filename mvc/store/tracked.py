"""The files that git tracks, moved from one commit to another in the work tree.

Owns HEAD, and bringing tracked files and their index entries forward after a ref has moved. It
does what `git checkout` does, but in steps that can be taken again after a kill: git itself,
killed in the middle, leaves files that it later takes for the user's. Never overwrites a file
that holds neither the old nor the new content.
"""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from pathlib import Path

import msgspec

from mvc.errors import StoreError
from mvc.store import git, objects, pointers
from mvc.store.files import sync_file, sync_folders
from mvc.store.layout import BATCH_POINTER, CONFIG, STATE_POINTER, Layout
from mvc.types import Pointer

_GONE = "0" * 40


class Change(msgspec.Struct, frozen=True):
    """One tracked path that differs between two commits; an empty blob means: not there."""

    path: str
    mode: str
    before: str
    after: str


def head(root: Path) -> tuple[str | None, str | None]:
    """HEAD's branch (None: detached) and commit (None: no commit yet)."""
    branch = git.try_read(root, "symbolic-ref", "-q", "--short", "HEAD")
    return branch, commit_of(root, "HEAD")


def head_name(root: Path) -> str:
    """What HEAD names: a branch's full name, or a commit when it is detached."""
    found = git.try_read(root, "symbolic-ref", "-q", "HEAD")
    return found or commit_of(root, "HEAD") or ""


def commit_of(root: Path, ref: str) -> str | None:
    """The commit that `ref` names, or None."""
    return git.try_read(root, "rev-parse", "-q", "--verify", f"{ref}^{{commit}}")


def blob(root: Path, commit: str, path: str) -> bytes | None:
    """A tracked file's content in `commit`, or None."""
    try:
        return git.read_bytes(root, "cat-file", "blob", f"{commit}:{path}")
    except git.GitFailed:
        return None


def pointers_of(root: Path, commit: str) -> tuple[Pointer, ...]:
    """The pointers that mvc keeps in `commit`: the state's, and the batch's where it has one.

    Raises:
        StoreError: one of them is damaged.
    """
    return (_pointers_of_hash if git.is_hash(commit) else _pointers_of)(root, commit)


def _pointers_of(root: Path, commit: str) -> tuple[Pointer, ...]:
    found = []
    names = (STATE_POINTER, BATCH_POINTER)
    texts = git.cat(root, [f"{commit}:{name}" for name in names])
    for name, text in zip(names, texts, strict=True):
        if text is not None:
            named = f"{name} of commit {commit[:10]}"
            found.append(pointers.parse_pointer(text, named))
            if f"{found[-1].path}.dvc" != name:
                raise StoreError(
                    f"{named}: its folder is {found[-1].path!r}, not {name.removesuffix('.dvc')!r}",
                    "choose another commit with `mvc log`; tell whoever made this one",
                )
    return tuple(found)


# One command asks for the same commit up to nine times, and what a hash names never changes.
_pointers_of_hash = lru_cache(maxsize=8)(_pointers_of)


@lru_cache(maxsize=8)  # a move asks twice, and what a hash names never changes
def changes(root: Path, old: str | None, new: str) -> tuple[Change, ...]:
    """What differs between two commits' trees (`old` None: from nothing), by path."""
    before = old or git.read_bytes(root, "hash-object", "-t", "tree", "--stdin", stdin=b"").decode()
    raw = git.read_bytes(root, "diff-tree", "-r", "-z", "--no-renames", before.strip(), new)
    fields = os.fsdecode(raw).split("\0")[:-1]  # a name need not be UTF-8
    found = []
    for meta, path in zip(fields[::2], fields[1::2], strict=True):
        _, mode, was, now, _ = meta.removeprefix(":").split(" ")
        if mode != "160000":  # a submodule is not ours to move
            found.append(Change(path, mode, *("" if set(h) == {"0"} else h for h in (was, now))))
    return tuple(found)


def foreign(root: Path, changed: tuple[Change, ...]) -> tuple[set[str], set[str]]:
    """The changed paths whose work tree, and whose index entry, is neither old, new nor absent."""
    paths = [c.path for c in changed]
    here, staged = _hashes(root, paths), _staged(root, paths)
    return (
        {c.path for c in changed if here[c.path] not in ("", c.before, c.after)},
        {c.path for c in changed if staged.get(c.path, "") not in ("", c.before, c.after)},
    )


def bring(layout: Layout, old: str | None, new: str) -> None:
    """Bring the work tree and index from commit `old` to `new`, path by path.

    Paths that are the same in both, and what the user staged there, are left alone. mvc.toml with
    the user's own edit keeps it; another file with foreign content is moved to `.mvc/lost/`.
    """
    root = layout.root
    changed = changes(root, old, new)
    if not changed:
        return
    edited, staged = foreign(root, changed)
    _index(root, [c for c in changed if c.path != CONFIG or CONFIG not in staged])
    here = _hashes(root, [c.path for c in changed])
    todo = [
        c
        for c in changed
        if here[c.path] != c.after and (c.path != CONFIG or CONFIG not in edited | staged)
    ]
    out = layout.private / "out"
    shutil.rmtree(out, ignore_errors=True)
    if paths := "\0".join(c.path for c in todo if c.after):
        # git itself writes the files (line ends, modes, links, filters), beside the work tree
        out.mkdir(parents=True)
        prefix = f"--prefix={out.relative_to(root).as_posix()}/"
        git.write(root, "checkout-index", "-f", "-z", "--stdin", prefix, stdin=os.fsencode(paths))
    for change in todo:
        target = root / change.path
        if change.path in edited:
            objects.rescue(layout, target)
        _no_links(root, target)
        _replace(out / change.path if change.after else None, target)
    shutil.rmtree(out, ignore_errors=True)
    refresh(root)


def _no_links(root: Path, target: Path) -> None:
    """Refuse to write through a link in the place of a folder: it may lead out of the repo."""
    for folder in target.relative_to(root).parents:
        if (root / folder).is_symlink() and folder != Path():
            raise StoreError(
                f"{folder} is a link, and {target.relative_to(root)} would be written through it",
                f"remove the link (`rm {folder}`), then run the same command again",
            )


def _replace(source: Path | None, target: Path) -> None:
    """Put `source` at `target` in one rename; with None remove `target` and its empty folders."""
    if source is None:
        target.unlink(missing_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_symlink():
        sync_file(source)
    source.replace(target)
    sync_folders([target.parent])


def refresh(root: Path) -> None:
    """Let git's index know the files' times, so that `git status` reads nothing again."""
    try:
        git.write(root, "update-index", "-q", "--refresh")
    except git.GitFailed as error:
        if error.status != 1:  # 1: some file really is modified
            raise


def _index(root: Path, todo: list[Change]) -> None:
    staged = _staged(root, [c.path for c in todo])
    stale = [c for c in todo if staged.get(c.path, "") != c.after]
    if not stale:
        return
    lines = "".join(f"{c.mode if c.after else '0'} {c.after or _GONE}\t{c.path}\0" for c in stale)
    git.write(root, "update-index", "-z", "--index-info", stdin=os.fsencode(lines))


def _hashes(root: Path, paths: list[str]) -> dict[str, str]:
    """The blob hash of each path in the work tree, as git would store it; "" where it is absent."""
    found = dict.fromkeys(paths, "")
    files = [p for p in paths if (root / p).is_file() and not (root / p).is_symlink()]
    if files:
        # Not as arguments: those of a large repo are more than a program may be given.
        told = git.read_bytes(
            root, "hash-object", "--stdin-paths", stdin=b"".join(map(_quoted, files))
        )
        found |= dict(zip(files, told.decode().split(), strict=True))
    for path in set(paths) - set(files):
        if (root / path).is_symlink():
            text = os.fsencode((root / path).readlink())
            found[path] = git.read_bytes(root, "hash-object", "--stdin", stdin=text).decode()[:-1]
        elif (root / path).exists():
            found[path] = "not a file"
    return found


def _quoted(path: str) -> bytes:
    """A path as a line that git reads back, whatever the name holds.

    Source: git's quote.c, unquote_c_style.
    """
    raw = os.fsencode(path)
    if not raw.startswith(b'"') and b"\n" not in raw and b"\r" not in raw:
        return raw + b"\n"
    for plain, escaped in ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\r", b"\\r")):
        raw = raw.replace(plain, escaped)
    return b'"' + raw + b'"\n'


def _staged(root: Path, paths: list[str]) -> dict[str, str]:
    """The blob hash of each path in the user's index; absent ones are left out."""
    if not paths:
        return {}
    wanted = set(paths)
    raw = os.fsdecode(git.read_bytes(root, "ls-files", "-z", "--stage"))
    rows = (row.split("\t", 1) for row in raw.split("\0") if row)
    return {path: meta.split(" ")[1] for meta, path in rows if path in wanted}
