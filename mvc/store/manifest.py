"""Manifests: which objects commits need, and what they vouch for.

Owns reading a commit's pointers, `.dir` listings and `meta.files` together. Refuses a manifest
that lies: one whose listing and meta disagree in paths or sizes, or that names a path outside.
Fetches nothing; what needs a `.dir` object that is not here yet says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from mvc.errors import ObjectCorrupt
from mvc.sharing import Wanted
from mvc.store import git, pointers
from mvc.store.layout import BATCH, BATCH_POINTER, STATE, STATE_POINTER, Layout
from mvc.types import Pointer

_SHA256 = re.compile(r"[0-9a-f]{64}")
_POINTER_LIMIT = 16 << 20
_CHUNK = 500  # commits whose pointers are in memory at once
_FEW = 4
_FOLDERS = {STATE_POINTER: STATE, BATCH_POINTER: BATCH}


def listings(layout: Layout, commits: Sequence[str]) -> list[Wanted]:
    """The `.dir` objects that the commits' pointers name, each once. Needs no object in the cache.

    Raises:
        StoreError: a pointer is damaged or leaves the repo.
    """
    found: dict[str, Wanted] = {}
    for commit, name, pointer in _pointers(layout, commits):
        found.setdefault(pointer.md5, Wanted(pointer.md5, None, None, name, commit))
    return list(found.values())


def files(layout: Layout, commits: Sequence[str]) -> list[Wanted]:
    """The files that the commits' listings name; needs the listings.

    An object that several commits name comes once, unless they vouch for different contents: then
    each of its SHA-256 comes, and `transfer.fetch` finds the one that lies.

    Raises:
        ObjectMissing: a listing is not in the cache (`listings` first, then `transfer.fetch`).
        ObjectCorrupt: a listing is damaged, or it and the commit's meta disagree.
        StoreError: a pointer is damaged or leaves the repo.
    """
    found: dict[tuple[str, int | None, str | None], Wanted] = {}
    read: dict[str, tuple[pointers.Entry, ...]] = {}
    for commit, name, pointer in _pointers(layout, commits):
        if pointer.md5 not in read:
            with pointers.naming(commit):
                read[pointer.md5] = pointers.entries(layout, pointer)
        for wanted in _agreed(commit, name, pointer, read[pointer.md5]):
            found.setdefault((wanted.md5, wanted.size_bytes, wanted.sha256), wanted)
    vouched = {wanted.md5 for wanted in found.values() if wanted.sha256}
    return [wanted for wanted in found.values() if wanted.sha256 or wanted.md5 not in vouched]


def objects(layout: Layout, commits: Sequence[str]) -> list[Wanted]:
    """`files` and then `listings`: all that the commits need, in the order to send it."""
    return files(layout, commits) + listings(layout, commits)


def _pointers(layout: Layout, commits: Sequence[str]) -> Iterator[tuple[str, str, Pointer]]:
    """Commit, pointer file and pointer, for each pointer that the commits have."""
    for at in range(0, len(commits), _CHUNK):
        some = tuple(commits[at : at + _CHUNK])
        is_few = len(some) <= _FEW and all(map(git.is_hash, some))
        found = (_pointers_of_few if is_few else _pointers_of)(layout, some)
        if is_few and not found:
            _pointers_of_few.cache_clear()  # a commit that a fetch may bring
        yield from found


def _pointers_of(layout: Layout, commits: tuple[str, ...]) -> list[tuple[str, str, Pointer]]:
    found = []
    names = [(commit, name) for commit in commits for name in _FOLDERS]
    asked = "".join(f"{commit}:{name}\n" for commit, name in names).encode()
    told = git.read_bytes(layout.root, "cat-file", "--batch-check", stdin=asked).decode()
    for (commit, name), line in zip(names, git.lines(told), strict=True):
        _, kind, size = line.rsplit(" ", 2) if line.count(" ") >= 2 else ("", "", "0")
        if kind == "blob" and int(size) > _POINTER_LIMIT:
            raise _lie(commit, name, f"{size} bytes are no DVC pointer")
    texts = git.cat(layout.root, [f"{commit}:{name}" for commit, name in names])
    for (commit, name), text in zip(names, texts, strict=True):
        if text is None:
            continue
        pointer = pointers.parse_pointer(text, f"{name} of commit {commit[:10]}")
        if pointer.path != _FOLDERS[name]:
            raise _lie(commit, name, f"its folder is {pointer.path!r}, not {_FOLDERS[name]!r}")
        if not pointer.md5.endswith(".dir"):
            raise _lie(commit, name, "it points to a single file, not to a folder")
        found.append((commit, name, pointer))
    return found


# A pull asks four times for the same commit, and what a hash names never changes.
_pointers_of_few = lru_cache(maxsize=8)(_pointers_of)


def _agreed(
    commit: str, name: str, pointer: Pointer, listed: tuple[pointers.Entry, ...]
) -> Iterator[Wanted]:
    """The files of one pointer, when its listing and its meta say the same."""
    paths = [path for path, _, _ in listed]
    meta = pointer.meta.get("files")
    if meta is None:  # a commit that plain DVC made vouches for nothing but md5
        for path, md5, size in listed:
            yield Wanted(md5, size, None, f"{pointer.path}/{path}", commit)
        return
    if not isinstance(meta, dict) or set(meta) != set(paths):
        odd = sorted(map(str, set(meta if isinstance(meta, dict) else ()) ^ set(paths)))
        raise _lie(commit, name, f"{', '.join(odd[:3])}: in the listing or in the manifest only")
    total = 0
    for path, md5, size in listed:
        sha256, pinned = _entry(commit, name, path, meta[path])
        if size is not None and size != pinned:
            raise _lie(commit, name, f"{path} has {size} bytes in the listing, {pinned} here")
        total += pinned
        yield Wanted(md5, pinned, sha256, f"{pointer.path}/{path}", commit)
    if total != pointer.size_bytes or len(listed) != pointer.num_files:
        raise _lie(
            commit,
            name,
            f"{pointer.num_files} files with {pointer.size_bytes} bytes are declared, "
            f"the manifest has {len(listed)} with {total}",
        )


def _entry(commit: str, name: str, path: str, entry: Any) -> tuple[str, int]:
    sha256 = entry.get("sha256") if isinstance(entry, dict) else None
    size = entry.get("size") if isinstance(entry, dict) else None
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise _lie(commit, name, f"{path} has no SHA-256")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _lie(commit, name, f"{path} has no size")
    return sha256, size


def _lie(commit: str, name: str, what: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"{name} of commit {commit[:10]}: its manifest lies: {what}",
        f"after a plain `dvc add` of yours, delete the `meta:` part of {name}, which is the older "
        "state's, and `git commit -a --amend`; otherwise `mvc checkout REV` of another commit, "
        "and ask the author that `git log` names",
    )
