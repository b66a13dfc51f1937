"""What DVC wrote, read without DVC: pointer files, folder objects, where the cache is.

Owns the text of a `.dvc` file and of a `.dir` object, and reading the cache. Writes nothing, and
imports nothing of DVC (333 ms), so that `mvc status` stays quick. Everything read here may come
from a stranger's repo: a path that leaves its folder or a hash that is none is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mvc.errors import ObjectCorrupt, ObjectMissing, StoreError
from mvc.store import configured, paths
from mvc.store.layout import Layout
from mvc.types import Pointer

Entry = tuple[str, str, int | None]
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_DEEPEST = 20
_LARGEST = 64 << 20
"""Bytes of a pointer or a list of files: half a million entries."""
_FETCH = "`mvc pull` brings what the newest commit lacks, `mvc fetch --all` what older ones lack"


def format_pointer(pointer: Pointer) -> bytes:
    """The `.dvc` file's bytes, those that `dvc add` would write, with `meta` added where given.

    Source: dvc/output.py, Output.dumpd; dvc/utils/serialize/_yaml.py, _dump.
    """
    out = {
        "md5": pointer.md5,
        "size": pointer.size_bytes,
        "nfiles": pointer.num_files,
        "hash": "md5",
        "path": pointer.path,
    }
    content: dict[str, Any] = {"outs": [out]}
    if pointer.meta:
        content["meta"] = pointer.meta
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue().encode()


class _Wrong(Exception):
    """What is wrong with a pointer, in words."""


def parse_pointer(text: bytes | str, name: str) -> Pointer:
    """Read a `.dvc` file.

    Args:
        text: Its content.
        name: What to call it in an error (`current_model.dvc`).

    Raises:
        StoreError: it is no YAML, has not exactly one output, or that one's path leaves the repo.
    """
    try:
        return _parsed(text)
    except _Wrong as wrong:
        raise StoreError(
            f"{name}: {wrong}", f"bring it back with `git checkout HEAD -- {name}`"
        ) from wrong


# 13 ms for a state's; a command asks for the same text several times, not always by one name.
@lru_cache(maxsize=64)
def _parsed(text: bytes | str) -> Pointer:
    from ruamel.yaml.error import YAMLError

    if len(text) > _LARGEST:
        raise _Wrong(f"is {len(text)} bytes, too large for a pointer")
    try:
        content = _plain_yaml().load(text)
    except (YAMLError, ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError
        raise _Wrong(f"is not a DVC pointer (no plain YAML): {str(error)[:200]}") from error
    outs = content.get("outs") if isinstance(content, dict) else None
    if not isinstance(outs, list) or len(outs) != 1 or not isinstance(outs[0], dict):
        raise _Wrong("must have exactly one output")
    out, meta = outs[0], content.get("meta") or {}
    path, md5 = out.get("path"), out.get("md5")
    if not isinstance(path, str) or not paths.stays(path):
        raise _Wrong(f"its path {path!r} is not inside the repo")
    if not isinstance(md5, str) or not _MD5.fullmatch(md5):
        raise _Wrong(f"{md5!r} is not an md5")
    size, count = out.get("size", 0), out.get("nfiles", 1)
    if not _is_count(size) or not _is_count(count) or not isinstance(meta, dict):
        raise _Wrong("size and nfiles must be whole numbers and meta a table")
    try:
        json.dumps(meta)
    except (TypeError, ValueError) as error:
        raise _Wrong(f"its meta holds what is no plain value: {error}") from error
    vouched = meta.get("files") or {}
    if not isinstance(vouched, dict) or not all(map(_vouches, vouched.items())):
        raise _Wrong("its meta.files must name a sha256 and a size for each path in the folder")
    return Pointer(path, md5, size, count, meta)


def _plain_yaml() -> Any:
    """A reader of YAML that raises ValueError for what a pointer has no use for: it can be a trap.

    Aliases that unfold to gigabytes, tags that name Python objects, nesting without end. Told
    from the parser's events as they are composed, so such a document is never read to its end.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
    from ruamel.yaml.parser import Parser

    class Plain(Parser):
        depth = 0

        def get_event(self) -> Any:
            event = super().get_event()
            tag = getattr(event, "tag", None)
            if isinstance(event, AliasEvent) or getattr(event, "anchor", None) or tag:
                raise ValueError("it holds an alias, an anchor or a tag")
            self.depth += isinstance(event, CollectionStartEvent)
            self.depth -= isinstance(event, CollectionEndEvent)
            if self.depth > _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} deep")
            return event

    yaml = YAML(typ="safe", pure=True)
    yaml.Parser = Plain
    return yaml


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _vouches(item: tuple[Any, Any]) -> bool:
    """Whether an entry of meta.files has its form; whether it is true is `manifest`'s to tell."""
    path, entry = item
    return (
        isinstance(path, str)
        and paths.stays(path)
        and isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and isinstance(entry.get("sha256"), str)
    )


def cache_folder(layout: Layout) -> Path:
    """Where DVC keeps objects by md5: `.dvc/cache/files/md5`, or below the configured cache.dir."""
    named = configured.option(layout, "cache", "dir")
    if named is None:
        return layout.root / ".dvc" / "cache" / "files" / "md5"
    folder, file = named
    found = Path(os.path.normpath(file.parent / Path(folder).expanduser()))
    if file == layout.root / ".dvc" / "config":
        _refuse_outside(layout, found)
    return found / "files" / "md5"


def _refuse_outside(layout: Layout, cache: Path) -> None:
    """The tracked configuration came with the repo: it must not say where this machine writes."""
    from mvc.store import user

    root = layout.root.resolve()
    inside = cache.resolve().is_relative_to(root) and root / ".git" not in cache.resolve().parents
    if not inside and not user.permissions(layout.root).dvc_config:
        raise StoreError(
            f".dvc/config puts the cache outside this repo, in {cache}",
            "move it to .dvc/config.local (`dvc cache dir --local DIR`) if it is your own; "
            + user.how_to_allow(layout.root, "dvc_config"),
        )


def object_path(cache: Path, md5: str) -> Path:
    """The file in `cache` that holds the object `md5` (which may end in `.dir`).

    Raises:
        StoreError: `md5` is none.
    """
    if not _MD5.fullmatch(md5):
        raise StoreError(f"{md5!r} is not an md5", "run `mvc fsck` to find where it came from")
    return cache / md5[:2] / md5[2:]


def is_md5(text: str) -> bool:
    """Whether `text` can be an object's name: an md5, that of a folder with `.dir` behind it."""
    return _MD5.fullmatch(text) is not None


def entries(layout: Layout, pointer: Pointer) -> tuple[Entry, ...]:
    """The files of a stored folder, sorted: (path relative to it, md5, size in bytes if recorded).

    Raises:
        ObjectMissing: the folder's object is not in the cache.
        ObjectCorrupt: it cannot be read, or names a path outside the folder.
    """
    return entries_in(cache_folder(layout), pointer)


@contextmanager
def naming(commit: str) -> Iterator[None]:
    """Let the error for a damaged list of files name the commit that needs it."""
    try:
        yield
    except ObjectCorrupt as error:
        short = commit[:10]
        if short in error.message:
            raise
        raise ObjectCorrupt(f"commit {short}, {error.message}", error.hint) from error


def entries_in(cache: Path, pointer: Pointer) -> tuple[Entry, ...]:
    """`entries`, for who asks for thousands and knows where the cache is."""
    if not pointer.md5.endswith(".dir"):
        raise StoreError(
            f"{pointer.path}.dvc points to a single file, not to a folder",
            f"bring it back with `git checkout HEAD -- {pointer.path}.dvc`",
        )
    try:
        with object_path(cache, pointer.md5).open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise ObjectMissing(
            f"{pointer.path}: its list of files ({pointer.md5}) is not in the cache", _FETCH
        ) from error
    found: list[Entry] = []
    try:
        if len(raw) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        if _new_md5(raw).hexdigest() != pointer.md5.removesuffix(".dir"):
            raise ValueError("it does not match its hash")
        for item in json.loads(raw):
            path, md5, size = item["relpath"], item["md5"], item.get("size")
            if not paths.stays(path):
                raise ValueError(f"{path[:80]!r} leaves the folder, or is git's or DVC's own")
            if not _MD5.fullmatch(md5) or md5.endswith(".dir"):
                raise ValueError(f"{md5[:80]!r} is not an md5")
            if size is not None and not _is_count(size):
                raise ValueError(f"{path!r} has no size")
            found.append((path, md5, size))
        paths.check_together([path for path, _, _ in found])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ObjectCorrupt(
            f"{pointer.path}: its list of files ({pointer.md5}) is damaged: {error}",
            "run `mvc fsck` to see all that is damaged; `mvc fsck --repair` mends from a remote",
        ) from error
    return tuple(sorted(found, key=lambda entry: entry[0]))


def missing(layout: Layout, pointer: Pointer) -> tuple[str, ...]:
    """The files of a stored folder that are not in the cache; (`pointer.md5`,) if its list is not.

    Raises:
        ObjectCorrupt: the list of files is damaged.
    """
    cache = cache_folder(layout)
    try:
        listed = entries_in(cache, pointer)
    except ObjectMissing:
        return (pointer.md5,)
    return tuple(path for path, md5, _ in listed if not object_path(cache, md5).is_file())


def require(layout: Layout, pointer: Pointer, commit: str | None) -> None:
    """Refuse to go on unless the whole stored folder (of `commit`) is in the cache.

    Raises:
        ObjectMissing: naming the first missing file and the commit that needs it.
    """
    absent = missing(layout, pointer)
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        whose = f" of commit {commit[:10]}" if commit else ""
        raise ObjectMissing(f"{pointer.path}/{absent[0]}{more}{whose} is not in the cache", _FETCH)


def looks_clean(layout: Layout, pointer: Pointer) -> bool | None:
    """Whether the workspace folder is that stored folder, told from inodes and sizes alone.

    True: every file is a link to its object. False: a file is missing, added, or has another size.
    None: sizes agree but the files are copies; only `objects.changed` can tell.
    """
    cache, folder = cache_folder(layout), layout.root / pointer.path
    try:
        listed = entries_in(cache, pointer)
    except ObjectMissing:
        return None
    if walk(folder) != {path for path, _, _ in listed}:
        return False
    certain = True
    for path, md5, _ in listed:
        try:
            here, there = (folder / path).stat(), object_path(cache, md5).stat()
        except FileNotFoundError:
            certain = False
            continue
        if here.st_size != there.st_size:
            return False
        certain &= (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) or not here.st_size
    return True if certain else None


def walk(folder: Path) -> set[str]:
    """The files below `folder` (none if there is no such folder), relative, with `/`."""
    found: set[str] = set()
    for here, folders, names in os.walk(folder):
        linked = [name for name in folders if Path(here, name).is_symlink()]
        found |= {Path(here, name).relative_to(folder).as_posix() for name in [*names, *linked]}
    return found


def verify_object(layout: Layout, md5: str) -> str | None:
    """Read one object whole and say what is wrong with it; None if nothing is.

    Args:
        layout: The repo.
        md5: The object's hash; a folder's ends in `.dir`.
    """
    path = object_path(cache_folder(layout), md5)
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, _new_md5).hexdigest()
            size = file.tell()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    expected = md5.removesuffix(".dir")
    if actual == expected:
        return None
    return f"is {size} bytes, should hash to {expected}, hashes to {actual}"


def _new_md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)
