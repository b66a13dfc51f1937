"""What a command costs as the history grows: each at 100 commits and at 10,000.

One line of 100 commits and one of 10,000 take turns: a batch is trained, its status asked, it is
pushed and pinned; an older state comes and the newest again; then the log and the plan of a gc.

    python -m benchmarks.growth
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

from benchmarks import frame
from benchmarks.lines import START, lengthen
from mvc.ops import init, remote, snapshot, train
from mvc.store import objects
from mvc.store.layout import Layout

SIZES = (100, 10_000)
TURNS = 5
SETS = ("train.max_length=32", "train.micro_batch_size=2", "train.packing=false", "lora.r=4")
WHY = {
    "train": "nearly all of it is loading the base and a few steps; that the history is not read "
    "again is tests/store/test_batches.py's"
}
FLAT = ("train", "checkout", "snapshot", "status", "push")


def main() -> None:
    """Measure, write results/growth.json."""
    from tests.tiny import make_base

    with frame.workplace() as folder:
        base = make_base(folder / "base")
        lines = {size: line(folder / str(size), str(base), size) for size in SIZES}
        found: dict[tuple[str, int], list[float]] = defaultdict(list)
        for turn in range(-1, TURNS):
            for size, at in lines.items() if turn % 2 else reversed(lines.items()):
                for name, seconds in measured(at, turn + 2).items():
                    frame.tell(f"  {name} at {size:,}: {seconds:.3f}")
                    if turn >= 0:
                        found[name, size].append(seconds)
    short, long = SIZES
    rows, points = [], []
    for name in dict.fromkeys(name for name, _ in found):
        ours, theirs = found[name, long], found[name, short]
        what, most = f"`{name}` at {long:,} commits", long / short
        if name in FLAT:
            why = WHY.get(name, "")
            words = f"itself at {short}: flat"
            rows.append(frame.row(what, words, ours, theirs, at_most=1.2, why=why))
        else:
            rows.append(frame.row(what, f"itself at {short}: linear", ours, theirs, at_most=most))
        points += [
            {"command": name, "commits": size, "seconds": sorted(found[name, size])[TURNS // 2]}
            for size in SIZES
        ]
    frame.write("growth", rows, points=points)


def line(folder: Path, base: str, size: int) -> Layout:
    """A model repo with `size` commits and a real state at its end, all of it pushed."""
    folder.mkdir()
    at = Layout(init.init(folder / "model", base, sets=SETS).root)
    list(train.train(at, [rows(folder, 0)]))
    lengthen(at, size - 2)
    hub, store = folder / "hub.git", folder / "store"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", hub], check=True)
    remote.add(at, "origin", str(hub), str(store))
    cache = objects.cache_folder(at)
    shutil.copytree(cache, store / "files" / "md5")
    frame.call("git", "push", "-q", "-u", "origin", "main", cwd=at.root)
    frame.call("mvc", "checkout", "main", cwd=at.root)
    return at


def rows(folder: Path, number: int) -> Path:
    """A data file of its own."""
    from tests.ops.conftest import write_batch

    return write_batch(folder / f"new-{number}.jsonl", 8 * number)


def measured(at: Layout, turn: int) -> dict[str, float]:
    """Seconds of each command; training without the imports, that are the same at any length."""

    def mvc(*words: str) -> float:
        return frame.call("mvc", *words, cwd=at.root)

    path, found = rows(at.root.parent, turn), {}
    begun = time.perf_counter()
    list(train.train(at, [path]))
    found["train"] = time.perf_counter() - begun
    found["status"] = mvc("status")
    found["push"] = mvc("push")
    begun = time.perf_counter()
    snapshot.snapshot(at, now=START + timedelta(days=1000 + turn))
    found["snapshot"] = time.perf_counter() - begun
    found["checkout"] = mvc("checkout", "main~1") + mvc("checkout", "main")
    found["log --json"] = mvc("log", "--json")
    found["gc (the plan)"] = mvc("gc", "--keep-last", "10")
    return found


if __name__ == "__main__":
    main()
