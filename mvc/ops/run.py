"""The batch in progress: `.mvc/run/`, from its beginning to its commit.

Owns run.json (which batch, on which parent), the private copy of its data, and the refusal to
throw away another batch's checkpoint. One batch at a time.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvc.errors import DataChanged, RepoError
from mvc.store import files, objects
from mvc.store.layout import Layout
from mvc.store.lock import holder
from mvc.types import DataFile, FileDigest, RunInfo


def begin(
    at: Layout, data: DataFile, parent: str, key: str, *, restart: bool, **words: Any
) -> tuple[FileDigest, ...]:
    """Make the run folder this batch's: its data copied in, its checkpoints kept.

    The copy is what is trained and what is committed, so that a file that changes meanwhile
    cannot come between the two. `words` are the command's own (`again`, `nproc`, `message`,
    `settings`), kept so that it can be named and gone on with.

    Returns:
        The copied files, hashed, by their path under `.mvc/run/data/`.

    Raises:
        RepoError: another batch in progress has a checkpoint and `restart` is false.
        DataChanged: the file changed while it was read.
    """
    from mvc.engine.checkpoint import by_number

    found = _read(at)
    if found and found.get("key") != key:
        steps = by_number(at.run / "checkpoints")
        if steps and not restart:
            raise _in_progress(found, data, parent, steps[0][0], words)
        drop(at)
    elif restart:
        drop(at)
    copy = at.run / "data" / data.name
    shutil.rmtree(at.run / "data", ignore_errors=True)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with files.no_space("the old state is whole"):
        if data.path.is_dir():
            # Hidden files are no part of the batch (`engine.files`).
            shutil.copytree(data.path, copy, ignore=shutil.ignore_patterns(".*"))
        elif data.path.exists():
            shutil.copyfile(data.path, copy)
    from mvc.engine.files import identify

    if not copy.exists() or identify(copy).md5 != data.md5:
        raise DataChanged(
            f"{data.path} changed while it was read",
            "run `mvc train` again when nothing writes to it",
        )
    note = {"key": key, "md5": data.md5, "name": data.name, "parent": parent, **words}
    note["path"] = str(data.path.resolve())
    files.atomic_write(_note(at), json.dumps(note).encode())
    return objects.hash_folder(at.run / "data")


def _in_progress(
    found: dict[str, Any], data: DataFile, parent: str, step: int, words: dict[str, Any]
) -> RepoError:
    name, way = found.get("name"), _command(found)
    again = f"`mvc train --restart {shlex.quote(str(data.path))}` throws that checkpoint away"
    if found.get("md5") != data.md5:
        why, way = f"batch {name} is in progress at step {step}", f"finish it: `{way}`"
    elif found.get("parent") != parent:
        old = str(found.get("parent"))[:10]
        why = f"batch {name} is in progress at step {step} on commit {old}, which is not HEAD"
        way = f"go back with `mvc checkout {old}`, then `{way}`"
    elif found.get("nproc") != words.get("nproc"):
        why = f"{name} was interrupted at step {step} with {found.get('nproc')} processes"
        way = f"go on with `{way}`"
    else:
        keys = _changed(found.get("settings"), words.get("settings"))
        why = f"{keys} in mvc.toml changed since {name} was interrupted at step {step}"
        way = f"put it back to go on with `{way}`"
    return RepoError(why, f"{way}; {again}")


def _changed(before: Any, now: Any) -> str:
    """The keys of mvc.toml that differ, in words."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return "a setting"
    keys = [
        f"{table}.{key}"
        for table, values in now.items()
        for key, value in values.items()
        if before.get(table, {}).get(key) != value
    ]
    return ", ".join(keys) or "a setting"


def _command(note: dict[str, Any]) -> str:
    """The command that goes on with a batch in progress, as a person would type it."""
    words = ["mvc", "train"]
    words += ["--again"] * bool(note.get("again"))
    alone = note.get("nnodes", 1) == 1  # several machines are in mvc.toml
    words += ["--nproc", str(note.get("nproc"))] if note.get("nproc", 1) != 1 and alone else []
    return shlex.join([*words, str(note.get("path"))])


def command(at: Layout) -> str:
    """How the batch in progress is gone on with."""
    return _command(_read(at) or {})


def kept(at: Layout, data: DataFile, parent: str | None) -> dict[str, Any] | None:
    """What was noted of this batch, interrupted on this commit with a checkpoint; else None."""
    found = _read(at)
    ours = found and (found.get("md5"), found.get("parent")) == (data.md5, parent)
    return found if ours and has_checkpoint(at) else None


def has_checkpoint(at: Layout) -> bool:
    """Whether the batch in progress has something to go on from."""
    from mvc.engine.checkpoint import by_number

    return bool(by_number(at.run / "checkpoints"))


def drop(at: Layout) -> None:
    """Throw the batch in progress away, with its checkpoints."""
    shutil.rmtree(at.run, ignore_errors=True)


def drop_of(at: Layout, data: DataFile, parents: Sequence[str]) -> None:
    """Throw away what is left of a batch that the line has meanwhile."""
    found = _read(at)
    if found and found.get("md5") == data.md5 and found.get("parent") in parents:
        drop(at)


def interrupted(at: Layout) -> Path | None:
    """Where the data of the batch in progress came from; None without one to go on from."""
    found = _read(at)
    return Path(str(found["path"])) if found and has_checkpoint(at) else None


def settle(at: Layout, parent: str, key: str) -> None:
    """The parent of the batch in progress is committed: from now on its checkpoints count."""
    found = _read(at) or {}
    files.atomic_write(_note(at), json.dumps(found | {"parent": parent, "key": key}).encode())


def fly(at: Layout) -> None:
    """Make room for the next batch: this one is trained and goes to its commit in the background.

    Until then it can still be gone on with, from its last checkpoint (`land`).
    """
    at.run.rename(at.flight)
    files.sync_folders([at.private])


def land(at: Layout) -> bool:
    """Take back a batch whose commit did not come about; the one begun after it goes.

    The caller holds the line. Without the commit the later one has no parent, and no checkpoint.

    Returns:
        Whether there was one.
    """
    if not at.flight.exists():
        return False
    drop(at)
    at.flight.rename(at.run)
    files.sync_folders([at.private])
    return True


def info(at: Layout) -> RunInfo | None:
    """The batch in progress, for `mvc status`; None without one."""
    from mvc.engine.checkpoint import by_number

    found = _read(at)
    if not found:
        return None
    steps = by_number(at.run / "checkpoints")
    return RunInfo(
        data_name=str(found.get("name")),
        step=steps[0][0] if steps else 0,
        parent=str(found.get("parent")),
        live=holder(at) is not None,
    )


def _note(at: Layout) -> Path:
    return at.run / "run.json"


def _read(at: Layout) -> dict[str, Any] | None:
    try:
        found = json.loads(_note(at).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
