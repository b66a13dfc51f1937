"""JSON documents for scripts: `--json` of every command. Owns the keys of DESIGN.md section 5.

Every number is finite (JSON has no NaN: null stands in), times are ISO 8601 with zone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Any

import msgspec

from mvc.keeping import State
from mvc.sharing import ExportResult
from mvc.types import BatchPlan, BatchResult, CheckoutResult, Commit, CommitDetail, Snapshot
from mvc.watching import WatchHealth

_PLAIN = frozenset({str, int, bool, type(None)})


def dump(value: Any) -> str:
    """`value` as one indented JSON document; records, times and paths included."""
    text = _encoded(simple(value))
    try:
        return msgspec.json.format(text, indent=2).decode()
    except msgspec.DecodeError:  # half a surrogate pair, of a file name that is no UTF-8
        return json.dumps(json.loads(text), indent=2)


def simple(value: Any) -> Any:
    """`value` made of what JSON has."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): simple(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [simple(item) for item in value]
    if isinstance(value, Commit):
        return commit(value)
    if isinstance(value, msgspec.Struct):
        return {name: simple(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): simple(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [simple(item) for item in value]
    return value


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half a surrogate pair, which json writes as an escape
        return json.dumps(simple(value)).encode()


def commit(value: Commit, marks: Sequence[str] = ()) -> dict[str, Any]:
    """A commit, as every answer tells it; `marks` (see `marks.py`) join its own warnings."""
    return {
        "commit": value.commit,
        "parents": list(value.parents),
        "kind": value.kind,
        "batch": value.batch,
        "time": value.time.isoformat(),
        "message": value.message,
        "data": value.data,
        "steps": value.steps,
        "lifetime_step": value.lifetime_step,
        "loss": value.loss,
        "learning_rate": value.learning_rate,
        "seconds": value.seconds,
        "gate": value.gate and {"metric": value.gate.metric, "value": value.gate.value},
        "rollback_to": value.rollback_to,
        "head": value.is_head,
        "branches": list(value.branches),
        "snapshots": list(value.snapshots),
        "warnings": [*value.warnings, *marks],
    }


def logged(
    value: Commit, marks: Sequence[str], *, rolled_back: bool, state: State = "whole"
) -> bytes:
    """A commit as `mvc log --json` lists it: only its line tells whether it was rolled back.

    `state` is what `mvc gc` left of it. It is JSON already, for there may be 10,000 of them.
    """
    return _encoded({**commit(value, marks), "rolled_back": rolled_back, "state": state})


def listing(rows: Iterable[bytes]) -> str:
    """Rows of JSON as one document, a line each: to indent 10,000 takes as long as to read them."""
    return (b"[\n" + b",\n".join(rows) + b"\n]").decode()


def detail(value: CommitDetail, marks: Sequence[str] = ()) -> dict[str, Any]:
    """A commit as `mvc show --json` tells it."""
    return {
        **commit(value.commit, marks),
        "curve": simple(value.curve),
        "settings": simple(value.settings),
        "environment": simple(value.environment),
        "state": simple(value.state),
        "batch_data": simple(value.batch),
        "files": simple(value.files),
    }


def batch(value: BatchResult) -> dict[str, Any]:
    """One file of `mvc train --json`: its commit, and how it went."""
    return {
        **commit(value.commit),
        "already": value.already,
        "branch": value.branch,
        "tokens_per_s": simple(value.tokens_per_s),
        "peak_memory_bytes": value.peak_memory_bytes,
    }


def plan(value: BatchPlan) -> dict[str, Any]:
    """One file of `mvc train --dry-run --json`: its figures without our `num_`."""
    flat = simple(value)
    return {key.removeprefix("num_"): item for key, item in flat.items()}


def arrival(value: CheckoutResult) -> dict[str, Any]:
    """Where `mvc checkout --json` or `mvc rollback --json` arrived."""
    return {
        "commit": commit(value.commit),
        "branch": value.branch,
        "revision": value.resolved.spec,
        "resolved": value.resolved.commit,
        "how": value.resolved.how,
        "files_changed": value.num_files_changed,
    }


def export(value: ExportResult) -> dict[str, Any]:
    """What `mvc export --json` wrote; sizes in bytes."""
    return {
        "commit": commit(value.commit),
        "revision": value.resolved.spec,
        "how": value.resolved.how,
        "folder": str(value.folder),
        "files": value.num_files,
        "bytes": value.num_bytes,
        "merged": value.merged,
    }


def watch(value: WatchHealth) -> dict[str, Any]:
    """What `mvc watch --status --json` tells: what is alive and well, then the daemon's words."""
    return {
        "alive": value.daemon is not None,
        "well": value.trouble is None,
        "trouble": value.trouble,
        "daemon": value.daemon,
        "seconds_since_step": simple(value.seconds_since_step),
        **(simple(value.status) or {}),
    }


def snapshot(value: Snapshot) -> dict[str, Any]:
    """A snapshot as `mvc snapshots --json` lists it."""
    return {
        "day": value.day,
        "tag": value.tag,
        "time": value.time.isoformat(),
        "message": value.message,
        "commit": commit(value.commit),
    }
