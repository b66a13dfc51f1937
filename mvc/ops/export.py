"""`mvc export`: a revision's state as a plain folder, or its model with the adapter merged.

The folder appears whole or not at all, is the user's own, and needs nothing of mvc to be used.
"""

from __future__ import annotations

import shlex
import shutil
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from mvc.errors import RepoError, StoreError
from mvc.ops import given_up
from mvc.ops.revision import resolve, state_at
from mvc.ops.verify import require_trusted
from mvc.settings import Settings
from mvc.sharing import ExportResult
from mvc.store import config, copies, files, history, layout, manifest, pointers, user, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, Progress

_OURS = (layout.PRIVATE, layout.STATE, layout.BATCH, ".dvc", ".git")


def export(
    at: Layout,
    rev: str,
    directory: Path,
    *,
    merged: bool = False,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write `rev`'s state into the new folder `directory`; nothing here moves.

    Args:
        at: the model repo.
        rev: the revision; what the cache lacks of it is fetched.
        directory: a new or empty folder.
        merged: the base model with the adapter merged into its weights, instead of the state.
        now: what "today" is in `rev`.
        progress: hears of the phases.

    Raises:
        RevisionNotFound: `rev` names no commit.
        StoreError: `directory` holds something, or cannot be written to.
        ObjectMissing: the state is neither in the cache nor on a remote.
        ObjectCorrupt: an object is damaged.
        SignatureError: this user asks for signatures, and the commit has none to trust.
        BaseModelError: with `merged`, the base cannot be found, or is another one.
    """
    target = _free(at, directory)
    found = resolve(at, rev, now)
    require_trusted(at, found.commit)
    state = state_at(at, found.commit)
    gone: set[str] = set()
    if pointers.missing(at, state):
        with Lock(at, f"mvc export {shlex.quote(rev)}"):
            workspace.recover(at)
            if not given_up.bring(at, found.commit, progress, thin=True):
                gone = {f"{state.path}/{path}" for path in pointers.missing(at, state)}
                progress.note(given_up.refusal(at, found.commit, "thin").message)
    listed = manifest.files(at, [found.commit])
    stored = [w for w in listed if w.path.startswith(f"{state.path}/") and w.path not in gone]
    half = files.temporary(target.parent)
    try:
        half.mkdir(parents=True)
        progress.stage(f"Copying {len(stored)} files")
        whole = half / "state"
        copies.write(at, stored, whole)
        if merged:
            from mvc.engine import merge

            progress.stage("Merging the adapter into the base")
            allowed = user.permissions(at.root).remote_code
            merge.merge(_settings(at, found.commit), at.root, whole, half / "model", allowed)
            whole = half / "model"
        whole.replace(target)
    except OSError as error:
        raise StoreError(
            f"{target} cannot be written: {error.strerror or error}",
            "name a folder that you may write to, on a disk with room: `mvc export REV DIR`",
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
        progress.stop()
    written = [path for path in target.rglob("*") if path.is_file()]
    return ExportResult(
        commit=history.commit(at.root, found.commit),
        resolved=found,
        folder=target,
        num_files=len(written),
        num_bytes=sum(path.stat().st_size for path in written),
        merged=merged,
    )


def _free(at: Layout, directory: Path) -> Path:
    """Where to write, once it is sure that nothing is there."""
    target, way = directory.resolve(), "name a new folder: `mvc export REV DIR`"
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise StoreError(f"{directory} is not empty", way)
    if any(target.is_relative_to(at.root.resolve() / name) for name in _OURS):
        raise RepoError(f"{directory} lies where this model repo keeps its own files", way)
    return target


def _settings(at: Layout, commit: str) -> Settings:
    """mvc.toml of `commit`; its base is where this machine has it."""
    text = history.file_at(at.root, commit, layout.CONFIG) or b""
    then, here = config.parse(text.decode(), f"mvc.toml of {commit[:10]}"), config.load(at)
    same = then.base.digest == here.base.digest
    return replace(then, base=here.base) if same else then
