"""A soak: 300 batches through the daemon, and what it holds on to.

Memory of the process (middle third beside last third), open files, threads, and disk growth
beside the bytes of the states.

    python benchmarks/soak.py [--batches 300] [--out soak.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import psutil

SETS = (
    "train.max_length=32",
    "train.micro_batch_size=2",
    "train.packing=false",
    "train.warmup_steps=2",
    "watch.settle_seconds=0",
    "watch.order=name",
    "watch.min_free_gb=0",
)
ROWS = 8


def size_of(folder: Path) -> int:
    """Bytes of every file below, one that is linked several times counted once."""
    stats = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    return sum({stat.st_ino: stat.st_size for stat in stats}.values())


def soak(folder: Path, base: str, count: int) -> dict[str, Any]:
    """Run the daemon over `count` files and look at it after each commit."""
    from mvc.daemon import loop
    from mvc.ops import init
    from mvc.store.layout import Layout
    from mvc.watching import WatchStatus

    text = " ".join(" ".join(each.split()) for _, each in sorted(topics.items()))
    inbox = folder / "inbox"
    inbox.mkdir()
    for i in range(count):
        rows = [text[24 * k : 24 * k + 24] for k in range(ROWS * i, ROWS * i + ROWS)]
        lines = (json.dumps({"text": row}) + "\n" for row in rows)
        (inbox / f"batch-{i:04}.jsonl").write_text("".join(lines))
    at = Layout(init.init(folder / "model", base, sets=SETS).root)
    process, seen = psutil.Process(), []

    def look(status: WatchStatus) -> None:
        if status.num_batches > len(seen):
            # git's and DVC's children live for moments; what the process itself holds counts
            seen.append((process.memory_info().rss, process.num_fds(), process.num_threads()))

    before, begun = size_of(at.root), time.monotonic()
    loop.run(at, inbox, once=True, on_status=look)
    seconds = time.monotonic() - begun
    third = len(seen) // 3
    middle, last = seen[third : 2 * third], seen[2 * third :]

    def medians(k: int) -> list[float]:
        return [statistics.median(each[k] for each in part) for part in (middle, last)]

    rss, fds, threads = (medians(k) for k in range(3))
    state = sum(path.stat().st_size for path in at.state.iterdir())
    return {
        "batches": len(seen),
        "seconds_per_batch": seconds / len(seen),
        "rss_mb": [each / 1e6 for each in rss],
        "rss_growth": rss[1] / rss[0] - 1,
        "fds": fds,
        "threads": threads,
        "disk_per_batch": (size_of(at.root) - before) / len(seen),
        "state_bytes": state,
    }


def main() -> None:
    """Run the soak and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from tests.tiny import make_base

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = soak(folder, str(make_base(folder / "base")), args.batches)
    told = json.dumps(found, indent=2) + "\n"
    if args.out:
        args.out.write_text(told)
    sys.stdout.write(told)


if __name__ == "__main__":
    main()
