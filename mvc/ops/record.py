"""What a commit records beside its state: metrics.json, loss.csv, dvc.yaml, the pointers' meta.

Owns the shape of these files, writing and reading. They are declared in dvc.yaml, so that plain
`dvc metrics diff` and `dvc plots diff` work without mvc.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from mvc.types import Commit, CurvePoint, FileDigest, Pointer

DVC_YAML = b"""\
metrics:
- metrics.json
plots:
- loss.csv:
    title: Loss over the life of the line
    x: lifetime_step
    y: loss
"""
_COLUMNS = ("step", "lifetime_step", "loss", "learning_rate", "grad_norm")


def metrics(commit: Commit, tokens_per_s: float = 0.0, peak_memory_bytes: int = 0) -> bytes:
    """metrics.json of a commit; durations in seconds."""
    found: dict[str, Any] = {
        "batch": commit.batch,
        "steps": commit.steps,
        "lifetime_step": commit.lifetime_step,
    }
    if commit.loss:
        found["loss"] = asdict(commit.loss)
    if commit.learning_rate:
        found["learning_rate"] = asdict(commit.learning_rate)
    if commit.gate:
        found["gate"] = {commit.gate.metric: commit.gate.value}
    if commit.data:
        found["rows"], found["tokens"] = commit.data.rows, commit.data.tokens
    if commit.seconds is not None:
        found["seconds"] = round(commit.seconds, 3)
        found["tokens_per_second"] = round(tokens_per_s, 1)
        found["peak_memory_bytes"] = peak_memory_bytes
    return (json.dumps(found, indent=2) + "\n").encode()


def curve_csv(curve: Sequence[CurvePoint]) -> bytes:
    """loss.csv: one row a logging step, numbers that read back to the same bits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for p in curve:
        norm = "" if p.grad_norm is None else repr(p.grad_norm)
        writer.writerow([p.step, p.lifetime_step, repr(p.loss), repr(p.learning_rate), norm])
    return out.getvalue().encode()


def read_curve(text: bytes | None) -> tuple[CurvePoint, ...]:
    """The points of a loss.csv; none for a commit that has no such file."""
    rows = csv.DictReader(io.StringIO((text or b"").decode()))
    return tuple(
        CurvePoint(
            step=int(row["step"]),
            lifetime_step=int(row["lifetime_step"]),
            loss=float(row["loss"]),
            learning_rate=float(row["learning_rate"]),
            grad_norm=float(row["grad_norm"]) if row["grad_norm"] else None,
        )
        for row in rows
    )


def state_meta(environment: dict[str, Any], files: Sequence[FileDigest]) -> dict[str, Any]:
    """What current_model.dvc says beside DVC's own keys.

    The environment that made the state, and every file's SHA-256 and size: DVC's md5 finds
    accidents, this is what a signed commit vouches for.
    """
    return {
        "environment": environment,
        "files": {f.path: {"sha256": f.sha256, "size": f.size_bytes} for f in files},
    }


def files_meta(files: Sequence[FileDigest]) -> dict[str, Any]:
    """What batch.dvc says beside DVC's own keys."""
    return {"files": {f.path: {"sha256": f.sha256, "size": f.size_bytes} for f in files}}


def manifest(pointer: Pointer, md5s: dict[str, str]) -> tuple[FileDigest, ...]:
    """The files that a pointer's meta vouches for, with the md5s of DVC's `.dir` object."""
    found = pointer.meta.get("files", {})
    return tuple(
        FileDigest(path, int(entry["size"]), md5s.get(path, ""), str(entry["sha256"]))
        for path, entry in sorted(found.items())
    )
