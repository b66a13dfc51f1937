"""Objects on their way between the cache and a DVC remote, each hashed as it passes.

Owns sending, fetching and checking objects, through DVC's own filesystems (`wire`). Refuses to
send an object that is damaged here, and to let one become visible under its name, on either side,
before it is whole. Knows nothing of commits (`manifest`) or refs (`refs`).
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mvc.errors import DiskFull, ObjectCorrupt, ObjectMissing
from mvc.hashing import Hashes
from mvc.sharing import Transfer, Wanted
from mvc.store import objects
from mvc.store.cache import PROTECTED
from mvc.store.files import no_space, sync_folders, temporary
from mvc.store.layout import Layout
from mvc.store.pointers import cache_folder, object_path, verify_object
from mvc.store.wire import Absent, Meter, Wire, each, opened
from mvc.types import SILENT, FileDigest, Progress

BLOCK = 4 << 20
LISTING_LIMIT = 16 << 20
"""Bytes of a `.dir` object at most, whose size no pointer tells: some 100,000 files."""


_Check = Callable[[str], str | None]


class _Wrong(Exception):
    """What arrived is not what was asked for; the text says how."""


# --- sending ------------------------------------------------------------------------------------


def push(
    layout: Layout,
    remote: str,
    md5s: Iterable[tuple[str, int | None]],
    progress: Progress = SILENT,
    *,
    are_new: bool = False,
) -> Transfer:
    """Send the objects that the remote lacks, eight at a time; what arrived is not sent again.

    An object that lies there with another size counts as lacking.

    Args:
        layout: The repo.
        remote: The DVC remote's name.
        md5s: Objects as (md5, size in bytes or None); duplicates are sent once. `.dir` objects
            go after all others, so that plain DVC never takes a half-sent folder for a whole one.
        progress: Hears `transfer`.
        are_new: The remote is likely to lack them: they are hashed while it is still being opened.

    Raises:
        ObjectMissing: an object is not in the cache.
        ObjectCorrupt: an object here does not match its hash; it was not sent.
        MissingExtra: the protocol's package is not installed.
        RemoteError: the remote failed; the URL in the message is masked.
    """
    cache, sizes = cache_folder(layout), dict(md5s)
    paths = {md5: object_path(cache, md5) for md5 in sizes}
    pool = ThreadPoolExecutor(os.cpu_count())
    first = sorted(paths, key=lambda md5: sizes[md5] or 0, reverse=True) if are_new else []
    early = {md5: pool.submit(verify_object, layout, md5) for md5 in first}

    def check(md5: str) -> str | None:
        done = early.pop(md5, None)
        return done.result() if done and not done.cancelled() else verify_object(layout, md5)

    try:
        with opened(layout, remote) as wire:
            # What has not begun is hashed right before it is sent.
            pool.shutdown(wait=False, cancel_futures=True)
            there = wire.sizes(paths)
            todo = {m: p for m, p in paths.items() if not _same_size(p, there.get(m))}
            return _send(wire, todo, len(paths) - len(todo), progress, check)
    finally:
        pool.shutdown(cancel_futures=True)


def replace(layout: Layout, remote: str, md5s: Iterable[str], progress: Progress = SILENT) -> int:
    """Send objects again over what the remote has under their names (`fsck --repair`).

    Returns:
        How many were sent: those that the cache has whole.
    """
    cache, check = cache_folder(layout), partial(verify_object, layout)
    todo = {md5: object_path(cache, md5) for md5 in md5s if check(md5) is None}
    with opened(layout, remote) as wire:
        return _send(wire, todo, 0, progress, check).num_objects


def _same_size(path: Path, there: int | None) -> bool:
    """What is not here any more, but is there, need not be here."""
    try:
        return there is not None and path.stat().st_size == there
    except FileNotFoundError:
        return True


def _send(
    wire: Wire, todo: dict[str, Path], num_present: int, progress: Progress, check: _Check
) -> Transfer:
    for md5, path in todo.items():
        if not path.is_file():
            raise ObjectMissing(
                f"object {md5} is neither in the cache nor on remote {wire.name}",
                "run `mvc fsck`: it names the commit and the file",
            )
    sizes = {md5: path.stat().st_size for md5, path in todo.items()}
    text = f"Sending {len(todo)} object{'' if len(todo) == 1 else 's'} to {wire.name}"
    meter = Meter(progress, text, sum(sizes.values()))

    def send(md5: str) -> None:
        if problem := check(md5):
            raise ObjectCorrupt(
                f"object {md5} {problem}; it was not sent to {wire.name}",
                "`mvc fsck` names the commit and the file, `mvc fsck --repair` mends it",
            )
        wire.put(todo[md5], md5, meter)

    # DVC takes the presence of a listing for that of its files.
    each(send, [m for m in todo if not m.endswith(".dir")], meter)
    each(send, [m for m in todo if m.endswith(".dir")], meter)
    if todo:
        wire.sweep()
    meter.end()
    return Transfer(len(todo), sum(sizes.values()), num_present)


# --- fetching -----------------------------------------------------------------------------------


def fetch(
    layout: Layout,
    remote: str,
    wanted: Sequence[Wanted],
    progress: Progress = SILENT,
    *,
    check: bool = False,
) -> Transfer:
    """Bring the objects that the cache lacks; a `.dir` object comes like any other.

    Each is written under a temporary name, hashed meanwhile, and gets its own name only if md5,
    SHA-256 and size hold. One that does not is fetched once more, then refused.

    Args:
        layout: The repo.
        remote: The DVC remote's name.
        wanted: What to bring.
        progress: Hears `transfer`.
        check: Hash what is in the cache already too, and bring it anew where it does not hold.

    Raises:
        ObjectMissing: the remote lacks objects; those that it has were fetched.
        ObjectCorrupt: the remote's object does not hold; names file, commit and cure.
        StoreError: an md5 is none.
        DiskFull: there is no room for what is declared; nothing was fetched.
        MissingExtra: the protocol's package is not installed.
        RemoteError: the remote failed; the URL in the message is masked.
    """
    cache = cache_folder(layout)
    asked: dict[str, list[Wanted]] = {}
    for item in wanted:
        object_path(cache, item.md5)  # refuses what is no md5
        asked.setdefault(item.md5, []).append(item)
    todo = {md5: items for md5, items in asked.items() if not _is_here(cache, items, check)}
    num_present = len(asked) - len(todo)
    if not todo:
        return Transfer(0, 0, num_present)
    with opened(layout, remote) as wire:
        # A file whose size its commit declares is not asked for: it is bound already.
        told = wire.sizes([md5 for md5, items in todo.items() if not _declared(items)])
        there = {m: told.get(m) for m, items in todo.items() if m in told or _declared(items)}
        absent = [items[0] for md5, items in todo.items() if md5 not in there]
        bound = {md5: _bound(todo[md5], size) for md5, size in there.items()}
        _require_space(cache, sum(bound.values()))
        text = f"Fetching {len(there)} object{'' if len(there) == 1 else 's'} from {wire.name}"
        meter = Meter(progress, text, sum(bound.values()))
        arrived: dict[str, FileDigest] = {}

        def bring(md5: str) -> None:
            try:
                arrived[md5] = _bring(wire, cache, todo[md5], there[md5], bound[md5], meter)
            except Absent:  # it went away since it was listed
                absent.append(todo[md5][0])

        with no_space("nothing that arrived is lost"):
            cache.mkdir(parents=True, exist_ok=True)
            try:
                each(bring, list(there), meter)
            finally:
                sync_folders({cache} | {object_path(cache, md5).parent for md5 in arrived})
        # What was hashed on its way need not be read again before the branch moves.
        objects.remember(layout, [f for md5, f in arrived.items() if not md5.endswith(".dir")])
        meter.end()
        if absent:
            raise _absent(wire, sorted(absent, key=lambda item: item.path))
    return Transfer(len(there), meter.arrived, num_present)


def _is_here(cache: Path, items: list[Wanted], check: bool) -> bool:
    path = object_path(cache, items[0].md5)
    try:
        if check:
            with path.open("rb") as file:
                _compare(items, _copy(file, None, path.stat().st_size, None))
            return True
        size = path.stat().st_size
    except (FileNotFoundError, _Wrong):
        return False
    return all(item.size_bytes in (None, size) for item in items)


def _bound(items: list[Wanted], there: int | None) -> int:
    """How many bytes are read at most."""
    if declared := _declared(items):
        return min(declared)
    limit = LISTING_LIMIT if items[0].md5.endswith(".dir") else there
    # A server that tells no size, for a file whose size no commit tells.
    return LISTING_LIMIT if limit is None else limit if there is None else min(limit, there)


def _declared(items: list[Wanted]) -> list[int]:
    """The sizes that commits declare of it."""
    return [item.size_bytes for item in items if item.size_bytes is not None]


def _require_space(cache: Path, needed: int) -> None:
    folder = next(f for f in (cache, *cache.parents) if f.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"{needed} bytes are to come, and {free} are free on the disk of {folder}; "
            "nothing was fetched",
            "free some space, or fetch less: `mvc pull --adapter-only`",
        )


def _bring(
    wire: Wire, cache: Path, items: list[Wanted], there: int | None, bound: int, meter: Meter
) -> FileDigest:
    """Fetch one object, at most twice; returns its hashes."""
    target, problem = object_path(cache, md5 := items[0].md5), ""
    for _ in range(2):
        half, before = temporary(cache), meter.arrived_of(md5)
        try:
            with half.open("wb") as out:
                if there is not None and there > bound:
                    raise _Wrong(f"is {there} bytes, should be {bound}")
                with wire.open(md5) as source:
                    found = _copy(source, out, bound, meter.adder(md5))
                _compare(items, found)
                out.flush()
                os.fsync(out.fileno())
            half.chmod(PROTECTED)
            target.parent.mkdir(parents=True, exist_ok=True)
            half.replace(target)
            return found
        except _Wrong as wrong:
            problem = str(wrong)
            meter.correct(md5, before)
        finally:
            half.unlink(missing_ok=True)
    raise ObjectCorrupt(
        f"{_named(items[0])}: the object {md5} on remote {wire.name} {problem}; "
        "it was fetched twice and refused",
        f"on a machine that has it whole, run `mvc fsck --remote {wire.name} --repair`",
    )


def _copy(
    source: BinaryIO, out: BinaryIO | None, bound: int, count: Callable[[int], None] | None
) -> FileDigest:
    """Copy and hash at most `bound` bytes.

    Raises:
        _Wrong: there is more.
    """
    hashes = Hashes()
    block = source.read(min(BLOCK, bound + 1))
    while block:
        if hashes.size_bytes + len(block) > bound:
            raise _Wrong(f"is longer than is declared: it should be {bound} bytes")
        with hashes.taking(block):  # a core each, while this one is written and the next comes
            if out is not None:
                out.write(block)
            if count is not None:
                count(len(block))
            block = source.read(min(BLOCK, bound - hashes.size_bytes + 1))
    return hashes.digest("")


def _compare(items: list[Wanted], found: FileDigest) -> None:
    for item in items:
        if item.size_bytes not in (None, found.size_bytes):
            raise _Wrong(f"is {found.size_bytes} bytes, should be {item.size_bytes}")
        expected = item.md5.removesuffix(".dir")
        if found.md5 != expected:
            raise _Wrong(f"should hash to {expected}, hashes to {found.md5}")
        if item.sha256 not in (None, found.sha256):
            raise _Wrong("does not match the SHA-256 that its commit vouches for")


def _named(item: Wanted) -> str:
    return f"{item.path} of commit {item.commit[:10]}"


def _absent(wire: Wire, absent: list[Wanted]) -> ObjectMissing:
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return ObjectMissing(
        f"{_named(absent[0])}{more}: not on remote {wire.name} (object {absent[0].md5})",
        # Not `dvc push`: where a folder's list lies there, DVC takes its files for sent.
        f"on a machine that has it, run `mvc push --all {wire.name}`",
    )


# --- asking -------------------------------------------------------------------------------------


def missing_on(layout: Layout, remote: str, md5s: Iterable[str]) -> set[str]:
    """Those of `md5s` that the remote does not have under their name (asked, not read)."""
    return (names := set(md5s)) - sizes(layout, remote, names).keys()


def sizes(layout: Layout, remote: str, md5s: Iterable[str]) -> dict[str, int | None]:
    """Those of `md5s` that the remote has, with their bytes where its protocol tells them."""
    with opened(layout, remote) as wire:
        return wire.sizes(set(md5s))


def remove(layout: Layout, remote: str, md5s: Sequence[str]) -> None:
    """Delete objects on the remote, eight at a time, folders' lists after all others."""
    with opened(layout, remote) as wire:
        meter = Meter(SILENT, "", 0)
        each(wire.remove, [m for m in md5s if not m.endswith(".dir")], meter)
        each(wire.remove, [m for m in md5s if m.endswith(".dir")], meter)


def check_remote(
    layout: Layout,
    remote: str,
    wanted: Sequence[Wanted],
    *,
    sample: int | None = None,
    progress: Progress = SILENT,
) -> list[tuple[Wanted, str]]:
    """Re-hash objects on the remote by streaming them; nothing is written.

    Args:
        layout: The repo.
        remote: The DVC remote's name.
        wanted: What commits need there.
        sample: How many to read, drawn by chance; presence and size of all are asked. None reads
            all.
        progress: Hears `transfer`.

    Returns:
        What does not hold, with what is wrong ("is missing", ...).
    """
    asked: dict[str, list[Wanted]] = {}
    for item in wanted:
        asked.setdefault(item.md5, []).append(item)
    with opened(layout, remote) as wire:
        there = wire.sizes(asked)
        wrong = {md5: "is missing" for md5 in asked if md5 not in there}
        for md5, size in there.items():
            for declared in _declared(asked[md5]):
                if size not in (None, declared):
                    wrong[md5] = f"is {size} bytes, should be {declared}"
        todo = [md5 for md5 in asked if md5 not in wrong]
        if sample is not None and sample < len(todo):
            todo = random.sample(todo, sample)
        bound = {md5: _bound(asked[md5], there[md5]) for md5 in todo}
        meter = Meter(progress, f"Checking {wire.name}", sum(bound.values()))

        def check(md5: str) -> None:
            try:
                with wire.open(md5) as source:
                    _compare(asked[md5], _copy(source, None, bound[md5], meter.adder(md5)))
            except _Wrong as error:
                wrong[md5] = str(error)
            except Absent:
                wrong[md5] = "is missing"

        each(check, todo, meter)
        meter.end()
    return [(asked[md5][0], problem) for md5, problem in wrong.items()]
