"""A soak: 300 batches through the daemon, and what it holds on to.

Memory of the process (middle third beside last third), open files, threads, and disk growth
beside what a batch must take.

    python -m benchmarks.soak [--batches 300]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import psutil

from benchmarks import frame

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
    return {
        "batches": len(seen),
        "seconds_per_batch": seconds / len(seen),
        "rss_mb": [each / 1e6 for each in rss],
        "fds": fds,
        "threads": threads,
        "disk_per_batch": (size_of(at.root) - before) / len(seen),
        "computed_per_batch": computed(at.root),
    }


def stored(root: Path, commit: str) -> tuple[dict[str, str], int]:
    """The state of a commit, names by md5, and the bytes of that list itself."""
    text = subprocess.run(
        ["git", "show", f"{commit}:current_model.dvc"],
        cwd=root,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    found = re.search(r"md5: (\w\w)(\w+\.dir)", text)
    assert found
    data = (root / ".dvc/cache/files/md5" / found[1] / found[2]).read_bytes()
    return {each["md5"]: each["relpath"] for each in json.loads(data)}, len(data)


def computed(root: Path) -> int:
    """Bytes that the last batch must take: what of its state is new, its data, its git objects.

    A file that is in the state before it too (the tokenizer) is stored once for all.
    """
    (state, size), (before, _) = stored(root, "HEAD"), stored(root, "HEAD~1")
    names = [name for md5, name in state.items() if md5 not in before]
    new = size + sum((root / "current_model" / name).stat().st_size for name in names)
    data = sum(path.stat().st_size for path in (root / "batch").rglob("*"))
    listing = subprocess.run(
        ["git", "rev-list", "--objects", "--no-object-names", "HEAD~1..HEAD"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    sizes = subprocess.run(
        ["git", "cat-file", "--batch-check=%(objectsize:disk)"],
        cwd=root,
        input=listing.stdout,
        capture_output=True,
        check=True,
    )
    return new + data + sum(map(int, sizes.stdout.split()))


def main() -> None:
    """Run the soak and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=300)
    args = parser.parse_args()
    from tests.tiny import make_base

    with frame.workplace() as folder:
        found = soak(folder, str(make_base(folder / "base")), args.batches)
    what = f"a daemon over {found['batches']} batches: "
    rows = [
        frame.row(
            what + name,
            "its middle third",
            [last],
            [middle],
            at_most=most,
            unit=unit,
        )
        for name, (middle, last), most, unit in (
            ("memory in the last third", found["rss_mb"], 1.03, "MB"),
            ("open files in the last third", found["fds"], 1, "files"),
            ("threads in the last third", found["threads"], 1, "threads"),
        )
    ]
    rows.append(
        frame.row(
            what + "growth of the disk",
            "new state, data and git objects",
            [found["disk_per_batch"] / 1e3],
            [found["computed_per_batch"] / 1e3],
            at_most=1.05,
            unit="kB a batch",
            why="what is over it is the log of the day, the log of operations and the manifests",
        )
    )
    frame.write("soak", rows, **found)


if __name__ == "__main__":
    main()
