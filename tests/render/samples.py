"""A made-up line of commits with everything that `mvc log` must tell."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from mvc.types import (
    BatchPlan,
    BatchResult,
    CheckoutResult,
    Commit,
    CommitDetail,
    CurvePoint,
    Data,
    DataFile,
    FileDigest,
    Finding,
    FsckResult,
    Loss,
    Pointer,
    Rate,
    Resolved,
    RunInfo,
    Snapshot,
    Status,
)
from mvc.watching import Event, Failure, Landed, LossAt, Pin, WatchHealth, WatchStatus

ZONE = timezone(timedelta(hours=1))
NOW = datetime(2026, 11, 20, 18, 0, tzinfo=ZONE)


def sha(number: int) -> str:
    return f"{number:x}" * 3 + f"{number * 2654435761 % 2**32:08x}".ljust(37, "0")


def curve(first: float, last: float, num: int = 32) -> tuple[float, ...]:
    return tuple(
        last + (first - last) * math.exp(-4 * i / num) + 0.03 * math.sin(i) for i in range(num)
    )


def batch(number: int, first: float, last: float, **changes: object) -> Commit:
    values: dict[str, object] = {
        "commit": sha(number),
        "parents": (sha(number - 1),),
        "kind": "batch",
        "batch": number,
        "time": datetime(2026, 11, 20, 8, 3, tzinfo=UTC) + timedelta(hours=number),
        "message": f"Batch {number}: chat-{number}.jsonl",
        "data": Data(f"chat-{number}.jsonl", f"{number:032x}", 1000 + number, 120_000),
        "steps": 119,
        "lifetime_step": 119 * number,
        "loss": Loss(first, last, (first + last) / 2),
        "learning_rate": Rate(2e-4, 2e-4),
        "seconds": 252.4,
        "curve": curve(first, last),
    }
    return Commit(**{**values, **changes})  # type: ignore[arg-type]


INIT = Commit(
    commit=sha(0),
    parents=(),
    kind="init",
    batch=0,
    time=datetime(2026, 11, 18, 8, 0, tzinfo=UTC),
    message="Start: smollm2-135m, LoRA r=16",
)
ONE = batch(1, 3.214, 2.402, learning_rate=Rate(1e-5, 2e-4))
TWO = batch(
    2,
    2.431,
    2.118,
    message="Batch 2: chat-2.jsonl, loss 2.43 -> 2.12\n\nthe whole week",
    snapshots=("2026-11-20",),
    branches=("good",),
)
THREE = batch(3, 2.95, 2.61)
ROLLBACK = Commit(
    commit=sha(4),
    parents=(sha(3),),
    kind="rollback",
    batch=None,
    time=datetime(2026, 11, 20, 12, 10, tzinfo=UTC),
    message="Roll back to @2 (2223c6ef36)\n\nthe data of the night was broken",
    lifetime_step=238,
    rollback_to=sha(2),
)
FOUR = batch(
    5,
    2.131,
    1.984,
    batch=3,
    data=Data("a-rather-long-name-of-a-file-from-the-night.jsonl", "a" * 32, 1, 2),
    warnings=("3 of 1000 rows were cut to 1024 tokens",),
)
DEAD = batch(6, 1.99, 1.99, batch=4, learning_rate=Rate(0.0, 0.0), curve=(1.99,) * 8, seconds=4.2)
EMPTY = batch(
    7,
    0,
    0,
    batch=5,
    steps=0,
    loss=None,
    learning_rate=None,
    curve=(),
    seconds=0.1,
    branches=("main",),
    is_head=True,
)
COMMITS = [EMPTY, DEAD, FOUR, ROLLBACK, THREE, TWO, ONE, INIT]
BY_HASH = {commit.commit: commit for commit in COMMITS}


def points(commit: Commit) -> tuple[CurvePoint, ...]:
    start = commit.lifetime_step - len(commit.curve)
    return tuple(
        CurvePoint(i + 1, start + i + 1, value, 2e-4, 0.5 if i else None)
        for i, value in enumerate(commit.curve)
    )


CURVES = [(commit, points(commit)) for commit in reversed(COMMITS) if commit.kind == "batch"]
DETAIL = CommitDetail(
    commit=TWO,
    curve=points(TWO),
    settings={"lora": {"r": 16, "alpha": 32}, "train": {"learning_rate": 2e-4, "packing": True}},
    environment={"torch": "2.13.0", "device": "cpu", "threads": 2, "dtype": "float32"},
    state=Pointer("current_model", "c" * 32 + ".dir", 969_000_000, 9),
    batch=Pointer("batch", "d" * 32 + ".dir", 1_234_567, 1),
    files=(
        FileDigest("adapter_model.safetensors", 323_000_000, "e" * 32, "f" * 64),
        FileDigest("optimizer.pt", 646_000_000, "1" * 32, "2" * 64),
    ),
)
STATUS = Status(
    root=Path("my-model"),
    branch="main",
    head=FOUR,
    state="clean",
    changed_files=(),
    run=None,
    unpushed=None,
    locked_by=None,
    last_snapshot="2026-11-20",
    config_changed=False,
)
BUSY = Status(
    root=Path("my-model"),
    branch=None,
    head=TWO,
    state="modified",
    changed_files=("optimizer.pt",),
    run=RunInfo("chat-3.jsonl", 50, sha(2), False),
    unpushed=3,
    locked_by="mvc train (process 4711)",
    last_snapshot=None,
    config_changed=True,
)
PLAN = BatchPlan(
    data=DataFile(Path("inbox/chat-3.jsonl"), "chat-3.jsonl", 1_234_567, "d" * 32),
    num_rows=1003,
    num_sequences=476,
    num_tokens=480_123,
    num_trainable_tokens=240_001,
    num_truncated=3,
    num_split=0,
    num_dropped=0,
    num_steps=119,
    passes=1,
    max_length=1024,
)
RESULT = BatchResult(FOUR, tokens_per_s=1902.4, peak_memory_bytes=812_000_000)
ALREADY = BatchResult(TWO, already=True)
PIN = Snapshot("2026-11-20", "snapshot/2026-11-20", TWO, TWO.time, "a good day")
ARRIVAL = CheckoutResult(
    TWO, Resolved("2026-11-20", TWO.commit, None, "the snapshot of 2026-11-20"), None, 4
)
BACK = CheckoutResult(ROLLBACK, Resolved("@2", TWO.commit, None, "batch 2 of this line"), "main", 4)
FSCK = FsckResult(8, 120, 9_690_000_000, ())
BROKEN = FsckResult(
    8,
    120,
    9_690_000_000,
    (
        Finding(
            sha(2),
            "current_model/optimizer.pt",
            "its bytes do not match its hash",
            "run `mvc pull`",
        ),
    ),
)
WATCH = WatchStatus(
    root="/home/ada/my-model",
    inbox="/data/inbox",
    pid=4711,
    host="box",
    since=NOW - timedelta(days=3, hours=2),
    written=NOW,
    state="training",
    batch="chat-2026-11-20T17-55.jsonl",
    step=57,
    num_steps=119,
    lifetime_step=4711,
    loss=2.3141,
    learning_rate=2e-4,
    tokens_per_s=1902.4,
    memory_bytes=812_000_000,
    seconds_left=62.0,
    last_step_time=NOW - timedelta(seconds=2),
    queue=tuple(f"chat-{i}.jsonl" for i in range(43, 93)),
    num_queued=112,
    num_batches=42,
    num_failures=1,
    last_commit=Landed("f927396289", 42, "Batch 42: chat-42.jsonl", NOW - timedelta(minutes=3)),
    last_snapshot=Pin("2026-11-20", NOW - timedelta(hours=15)),
    last_failure=Failure(
        "nonsense.jsonl",
        "the loss of nonsense.jsonl exploded: it ended at 8.12, and 2.40 was usual",
        NOW - timedelta(hours=2, minutes=10),
    ),
    losses=tuple(
        LossAt(NOW - timedelta(minutes=240 - i), value)
        for i, value in enumerate(curve(3.3, 2.3, 240))
    ),
    events=tuple(
        Event(NOW - timedelta(minutes=50 - i), f"Committed @{i} chat-{i}.jsonl, loss 2.431 → 2.314")
        for i in range(50)
    ),
)
HEALTH = WatchHealth(WATCH, "`mvc watch /data/inbox`, process 4711 of ada on box", 2.0, None)
