"""One opened DVC remote: the few calls that `transfer` needs, over every protocol alike.

Owns opening DVC's remote, temporary names there, how many objects move at once, and turning
foreign errors into ours without secrets. Knows nothing of what an object should hold.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

from mvc.errors import MvcError, RemoteError, StoreError
from mvc.store import foreign, places, remotes
from mvc.store.cache import PROTECTED, refusals
from mvc.store.files import TEMPORARY, sync_file, temporary
from mvc.store.folder import Folder
from mvc.store.layout import Layout
from mvc.types import Progress

JOBS = 8
_RENAMES = {"local", "ssh", "webdav", "webdavs", "hdfs"}
"""Where a name appears before its bytes do; elsewhere an upload is atomic (S3, GS, Azure)."""
_HALF_SENT = re.compile(rf"{re.escape(TEMPORARY)}.*\.tmp|\.[\w-]{{22}}\.tmp")
"""Our temporary names, and those that dvc-ssh gives them while it writes."""
_LISTED_FROM = 256  # objects; below it, asking for each is quicker than listing an object store
_RANGE_BYTES = 8 << 20  # s3fs reads 50 MiB ahead by default, in each of eight threads
_CONNECT_S = 30
_STALE_S = 24 * 3600.0
_PERIOD_S = 0.1


_expected: ContextVar[tuple[Path, str, Future[Wire]] | None] = ContextVar("_expected", default=None)


class Absent(Exception):
    """The remote has no object under that name."""


class _Stopped(Exception):
    """Another object failed; this one need not go on."""


class Meter:
    """Counts the bytes of a transfer from many threads and tells a Progress ten times a second."""

    def __init__(self, progress: Progress, text: str, total: int) -> None:
        self._progress, self._text, self._total = progress, text, total
        self._lock = threading.Lock()
        self._by_name: dict[str, int] = {}
        self._told = 0.0
        self.stopped = threading.Event()
        progress.transfer(text, 0, total)

    @property
    def arrived(self) -> int:
        """Bytes so far."""
        with self._lock:
            return sum(self._by_name.values())

    def arrived_of(self, name: str) -> int:
        """Bytes of one object so far."""
        return self._by_name.get(name, 0)

    def adder(self, name: str) -> Callable[[int], None]:
        """A function that counts bytes of `name`; it raises once the transfer is stopped."""

        def add(num_bytes: int) -> None:
            if self.stopped.is_set():
                raise _Stopped
            with self._lock:
                self._by_name[name] = self._by_name.get(name, 0) + num_bytes
                if (now := time.monotonic()) - self._told > _PERIOD_S:
                    self._told = now
                    done = min(sum(self._by_name.values()), self._total)
                    self._progress.transfer(self._text, done, self._total)

        return add

    def correct(self, name: str, to: int) -> None:
        """Count `to` bytes of `name`: the rest was thrown away, or nobody counted it."""
        with self._lock:
            self._by_name[name] = to

    def end(self) -> None:
        """All is there."""
        self._progress.transfer(self._text, self._total, self._total)


class Wire:
    """An opened DVC remote; `opened` makes one."""

    def __init__(self, name: str, fs: Any, folder: str) -> None:
        self.name = name
        self._fs, self._folder = fs, folder
        self._renames = self._fs.protocol in _RENAMES
        self._made: set[str] = set()

    def _path(self, md5: str) -> str:
        return str(self._fs.join(self._folder, md5[:2], md5[2:]))

    def connect(self) -> None:
        """Do now what else the first call would wait for: shake hands, make a client."""
        _harden(self._fs)
        _ = getattr(self._fs, "fs", None)

    def sizes(self, md5s: Iterable[str]) -> dict[str, int | None]:
        """The objects that are there, with their sizes where the protocol tells them."""
        paths = {self._path(md5): md5 for md5 in md5s}
        if len(paths) > _LISTED_FROM and not self._renames and self._fs.CAN_TRAVERSE:
            found = self._fs.fs.find(self._folder, detail=True)
            return {paths[p]: info.get("size") for p, info in found.items() if p in paths}
        told = self._fs.info(list(paths), batch_size=JOBS, return_exceptions=True) if paths else []
        sizes: dict[str, int | None] = {}
        for md5, info in zip(paths.values(), told, strict=True):
            if isinstance(info, FileNotFoundError | NotADirectoryError):
                continue
            if isinstance(info, BaseException):
                raise info
            if info.get("type") != "directory":
                sizes[md5] = info.get("size")
        return sizes

    @contextmanager
    def open(self, md5: str) -> Iterator[BinaryIO]:
        """The object's bytes as a stream."""
        options = {} if self._renames else {"block_size": _RANGE_BYTES}
        try:
            source = self._fs.open(self._path(md5), "rb", **options)
        except FileNotFoundError as error:
            raise Absent from error
        with source:
            yield cast(BinaryIO, source)

    def put(self, path: Path, md5: str, meter: Meter) -> None:
        """Send a file; it gets its name when all of it is there."""
        add, target = meter.adder(md5), self._path(md5)
        heard = add if isinstance(self._fs, Folder) else _callback(add, md5, meter)
        if self._renames:
            self._put_whole(path, target, heard)
        else:
            self._fs.put_file(str(path), target, callback=heard)
        meter.correct(md5, path.stat().st_size)  # a small file, or a clone, calls nobody back

    def remove(self, md5: str) -> None:
        """Delete the object; one that is not there is as good as deleted."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(md5))

    def _put_whole(self, path: Path, target: str, callback: Any) -> None:
        # Beside the objects' folders, where DVC's listing finds no object.
        half = self._fs.join(self._folder, temporary(Path()).name)
        self._make(self._fs.parent(target))
        try:
            self._fs.put_file(str(path), half, callback=callback)
            if self._fs.protocol == "local":
                Path(half).chmod(PROTECTED)  # as DVC's own; it hashes again what is not
                sync_file(Path(half))
                Path(half).replace(target)
            else:
                self._move(half, target)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(half)
            raise

    def _move(self, half: str, target: str) -> None:
        if self._fs.protocol in ("webdav", "webdavs"):
            # Its own `mv` copies, byte by byte under the name, and refuses where something lies.
            self._fs.fs.client.move(half, target, overwrite=True)
        else:
            self._fs.mv(half, target)

    def _make(self, folder: str) -> None:
        if folder in self._made:
            return
        if self._fs.protocol != "ssh":
            self._fs.makedirs(folder, exist_ok=True)
        elif not self._fs.isdir(folder):
            # Over SSH `makedirs` tries each folder of the path, with two round trips for each.
            try:
                self._fs.fs.mkdir(folder, create_parents=False)
            except Exception:  # its parent is missing too, or somebody was faster
                self._fs.makedirs(folder, exist_ok=True)
        self._made.add(folder)

    def sweep(self) -> None:
        """Remove what senders that were killed more than a day ago left half-sent."""
        if not self._renames:
            return
        with contextlib.suppress(Exception):  # the objects are there; this is only tidiness
            for info in self._fs.ls(self._folder, detail=True):
                name = str(info["name"]).rpartition("/")[2]
                old = time.time() - _seconds(info.get("mtime", info.get("modified"))) > _STALE_S
                if _HALF_SENT.fullmatch(name) and old:
                    self._fs.rm_file(info["name"])


def _callback(add: Callable[[int], None], md5: str, meter: Meter) -> Any:
    from fsspec.callbacks import Callback  # type: ignore[import-untyped]

    class Counting(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            add(inc)

        def absolute_update(self, value: int) -> None:
            add(value - meter.arrived_of(md5))

    return Counting()


def _seconds(when: object) -> float:
    if isinstance(when, datetime):
        return when.timestamp()
    return float(when) if isinstance(when, int | float) else time.time()


def each(act: Callable[[str], None], names: Sequence[str], meter: Meter) -> None:
    """Call `act` for all `names`, eight at a time; the first failure stops the others."""
    with ThreadPoolExecutor(JOBS, thread_name_prefix="mvc-transfer") as pool:
        futures = [pool.submit(act, name) for name in names]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            meter.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        failed = [error for f in done if (error := f.exception()) is not None]
        if failed:
            meter.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise next((e for e in failed if not isinstance(e, _Stopped)), failed[0])


@contextmanager
def expected(layout: Layout, name: str) -> Iterator[None]:
    """Open the remote for all that is done inside, in a thread, while git is at work.

    The parts of DVC's that SSH and S3 need are a second of imports, and a handshake or a client
    comes after them: once for all, not each time. What fails is `opened`'s to tell.
    """
    if any(option.startswith("ask_") for option in places.options(layout, name)):
        yield  # DVC may ask for a password in the constructor, while git asks for one
        return
    found: Future[Wire] = Future()

    def reach() -> None:
        try:
            wire = _reached(layout, name)
            if not _asks():  # nobody is to be asked for a password while git asks for one
                wire.connect()
            found.set_result(wire)
        except BaseException as error:
            found.set_exception(error)

    token = _expected.set((layout.root, name, found))
    # A daemon: one that came to nothing, or whose server is silent, keeps no error waiting.
    threading.Thread(target=reach, name="mvc-reach", daemon=True).start()
    try:
        yield
    finally:
        _expected.reset(token)


@contextmanager
def opened(layout: Layout, name: str) -> Iterator[Wire]:
    """Open the DVC remote `name`; foreign errors inside become ours. One that is expected is taken.

    Raises:
        RemoteError: there is no such remote, or it failed.
        RepoError: the tracked configuration would write elsewhere, or run a command.
        MissingExtra: the protocol's package is not installed.
    """
    url = remotes.data_url(layout, name)
    if url is None:
        remote = remotes.get(layout, name)
        raise RemoteError(
            f"remote {name} has no place for objects: it is a git remote only",
            f"`mvc remote add {name} --git {remotes.masked(remote.git_url or 'URL')} --data URL`",
        )
    foreign.check_dvc(layout)
    held = _expected.get()
    with _spoken(layout, name, url), refusals():
        ready = held is not None and held[:2] == (layout.root, name)
        wire = held[2].result() if held is not None and ready else _reached(layout, name)
        wire.connect()
        yield wire


def _reached(layout: Layout, name: str) -> Wire:
    """What DataCloud.get_remote_odb does (dvc/data_cloud.py), without a Repo."""
    foreign.check_dvc(layout)
    options = places.options(layout, name)
    url = options.get("url", "")
    if "://" not in url and options == {"url": url} and "%" not in url:  # `%` may be DVC's syntax
        return Wire(name, Folder(), os.path.join(url, "files", "md5"))  # noqa: PTH118
    from dvc.fs import get_cloud_fs

    kind, options, path = get_cloud_fs(places.configuration(layout, name), name=name)
    for module in kind.REQUIRES.values():
        import_module(module)
    fs = kind(**options)
    if options.get("worktree") or fs.version_aware:
        raise StoreError(f"DVC refused: remote {name} is cloud versioned", "take one that is not")
    if fs.protocol == "local":
        fs = Folder(shared=bool(options.get("shared")))
    return Wire(name, fs, fs.join(path, "files", "md5"))


def _harden(fs: Any) -> None:
    """DVC's ssh accepts any host key and forwards the user's agent: neither is ours to give."""
    if fs.protocol != "ssh":
        return
    args = fs.fs_args
    args["known_hosts"] = ()  # asyncssh: those of ~/.ssh/config and ~/.ssh/known_hosts
    args["agent_forwarding"] = False
    args["connect_timeout"] = _CONNECT_S
    args["keepalive_interval"] = _CONNECT_S
    if not _asks():
        from asyncssh import SSHClient

        args["client_factory"] = SSHClient  # DVC's own would ask nobody for a password


def _asks() -> bool:
    """Whether somebody is there to be asked for a password."""
    return sys.stdin is not None and sys.stdin.isatty()


@contextmanager
def _spoken(layout: Layout, name: str, url: str) -> Iterator[None]:
    """Foreign errors as RemoteError or MissingExtra.

    Their causes are not kept: what a library says may hold what must not be shown.
    """
    try:
        yield
    except ImportError:
        raise remotes.missing_extra(url.split("://", 1)[0]) from None
    except RemoteError:
        raise
    except MvcError as error:
        # `refusals` wraps what DVC says of the remote's configuration.
        if error.__cause__ is None or not error.message.startswith("DVC refused"):
            raise
        raise _failed(layout, name, url, error.message) from None
    except Exception as error:
        from dvc_objects.fs.errors import RemoteMissingDepsError

        if isinstance(error, RemoteMissingDepsError):
            raise remotes.missing_extra(str(error.protocol)) from None
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise _failed(layout, name, url, text, error) from None


def _failed(
    layout: Layout, name: str, url: str, text: str, error: Exception | None = None
) -> RemoteError:
    kind = type(error).__name__ if error else ""
    hint = "check the URL (`mvc remote`) and the network, then run the same command again"
    if isinstance(error, PermissionError) or kind in (
        "PermissionDenied",
        "NoCredentialsError",
        "PartialCredentialsError",
        "AuthError",
        "ClientError",
    ):
        hint = (
            f"give this machine the right to it: the same `mvc remote add {name} ...` with "
            "`--option KEY=VALUE` keeps a secret in .dvc/config.local"
        )
    elif isinstance(error, FileNotFoundError):
        hint = "make the folder of the URL over there, then run the same command again"
    elif kind == "HostKeyNotVerifiable":
        hint = "compare the host's key with its owner's, then run `ssh HOST` once to accept it"
    said = remotes.scrubbed(text, remotes.secrets(layout, name))[:300]
    return RemoteError(f"remote {name} ({remotes.masked(url)}) failed: {said}", hint)
