"""Recovery points inside a batch: folders `checkpoint-STEP` that are whole or do not count.

Owns writing one (temp folder, manifest last, rename), choosing the newest by number, and checking
it against its manifest before anything is loaded. The state at a batch's end is the checkpoint of
its last step. Neighbouring tools trust a save that was killed half-way (transformers PR#27820,
lightning#19970) and sort checkpoint-1000 before checkpoint-119.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mvc.types import CurvePoint, FileDigest, Gate

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-([0-9]+)")


class Manifest(msgspec.Struct, frozen=True):
    """What a checkpoint holds: its files by hash, and the batch's figures up to its step.

    `pending` are the losses since the last logged point: a stop between two logging steps must
    not change the curve. `tokens` and `seconds` count from the batch's start. `gate_before` and
    `gate` are the held-out file's metric before the batch and, at its last step, after it.
    """

    step: int
    key: str
    files: tuple[FileDigest, ...]
    curve: tuple[CurvePoint, ...]
    pending: tuple[float, ...]
    tokens: int
    seconds: float
    peak_memory_bytes: int
    warnings: tuple[str, ...] = ()
    gate_before: Gate | None = None
    gate: Gate | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """A whole checkpoint on disk."""

    folder: Path
    manifest: Manifest


def by_number(folder: Path) -> list[tuple[int, Path]]:
    """The folders named checkpoint-N in `folder`, highest number first."""
    if not folder.is_dir():
        return []
    found = [(m, p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
    return sorted(((int(m[1]), p) for m, p in found), reverse=True)


def begin(folder: Path, step: int) -> Path:
    """An empty temporary folder in which to write the checkpoint of `step`."""
    temporary = folder / f"tmp-checkpoint-{step}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def finish(temporary: Path, manifest: Manifest) -> Checkpoint:
    """Make the written checkpoint count: manifest, sync, rename."""
    target = temporary.parent / f"checkpoint-{manifest.step}"
    with (temporary / MANIFEST).open("wb") as file:
        file.write(msgspec.json.encode(manifest))
        file.flush()
        os.fsync(file.fileno())
    _sync(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    _sync(target.parent)
    return Checkpoint(target, manifest)


def newest(folder: Path, key: str) -> Checkpoint | None:
    """The checkpoint with the highest number that is whole and belongs to the batch `key`.

    One that is torn, damaged or another batch's is passed over for the next lower number.
    """
    for step, path in by_number(folder):
        manifest = _read(path)
        if (
            manifest
            and manifest.step == step
            and manifest.key == key
            and all(_holds(path, digest) for digest in manifest.files)
        ):
            return Checkpoint(path, manifest)
    return None


def drop_older(folder: Path, than: int) -> None:
    """Delete checkpoints with a lower number: one recovery point is kept, not 800 GB of them."""
    for step, path in by_number(folder):
        if step < than:
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None


def _holds(folder: Path, digest: FileDigest) -> bool:
    path = folder / digest.path
    try:
        if path.stat().st_size != digest.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest.sha256
    except OSError:
        return False


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def batch_key(parts: Sequence[str]) -> str:
    """What a checkpoint belongs to: the hash of everything that decides the batch's bits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
