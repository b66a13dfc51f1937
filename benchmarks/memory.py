"""Peak memory of `mvc train` beside a Trainer script that goes on from its checkpoint.

At the user's size (323 MB of adapter, 646 MB of moments, a real wide LoRA): the same number of
steps, one batch more of a line that has moments already. Peaks are the system's, of the whole
process and what it started.

    python -m benchmarks.memory
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import frame, training
from benchmarks.gap import WIDE

STEPS = 2


def main() -> None:
    """Measure, write results/memory.json."""
    with frame.workplace() as folder:
        root = training.make(folder, "wide", [*WIDE, "train.checkpoint_steps=0"])
        data = training.short(folder / "short.jsonl", STEPS)
        rows = training.dumped(root, data)
        words: dict[str, dict[str, Any]] = {
            "lora": {"r": 2048},
            "args": {"per_device_train_batch_size": 1},
        }
        first = training.spec(folder, "trainer", rows, **words)
        training.child("-m", "benchmarks.script", first)
        frame.call("mvc", "train", data, cwd=root)
        checkpoint = folder / "trainer-out" / f"checkpoint-{STEPS}"
        # global_step ends a resumed run before its first step, so it has one epoch more
        words["args"] |= {"num_train_epochs": 2, "save_strategy": "epoch"}
        more = training.spec(folder, "trainer", rows, **words, resume=str(checkpoint))

        seconds: dict[str, list[float]] = {"mvc": [], "script": []}

        def peak(name: str, *command: str | Path) -> float:
            peak_bytes, whole = training.child("-m", *command)
            seconds[name].append(whole)
            return peak_bytes / 1e6

        found = frame.interleaved(
            {
                "mvc": lambda: peak("mvc", "mvc", "-C", root, "train", "--again", data),
                "script": lambda: peak("script", "benchmarks.script", more),
            }
        )
    row = frame.row(
        "peak memory of `mvc train`",
        "the Trainer script that resumes from its checkpoint",
        found["mvc"],
        found["script"],
        at_most=1.02,
        unit="MB",
    )
    whole = frame.row(
        "the whole process, start to exit, a state of 969 MB",
        "the Trainer script that resumes from its checkpoint",
        seconds["mvc"],
        seconds["script"],
        why="mvc hashes the state, fsyncs it, looks whether it learned, and commits it; the script "
        "leaves a checkpoint to the system's memory",
    )
    frame.write("memory", [row, whole])


if __name__ == "__main__":
    main()
