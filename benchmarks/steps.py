"""Training steps per second: `mvc train` beside an unmodified Trainer script, on the same rows.

On the embedded base (SmolLM2-135M, as a folder), and on a small random Llama whose steps are so
short that what is done around each of them shows.

    python -m benchmarks.steps
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import frame, training

WHAT, AGAINST = "training steps per second", "an unmodified Trainer script"
SIZES = {  # tokens of a row, rows
    "smollm2-135m": (64, 18),
    "middle": (32, 60),
}
ROWS_PER_STEP = 2


def main() -> None:
    """Measure both bases, write results/steps.json."""
    rows = []
    for base in SIZES:
        with frame.workplace() as folder:
            rows += measure(folder, base)
    frame.write("steps", rows)


def measure(folder: Path, base: str) -> list[frame.Row]:
    """The pace inside the loop on one base."""
    length, count = SIZES[base]
    sets = [f"train.max_length={length}", f"train.micro_batch_size={ROWS_PER_STEP}"]
    sets += ["train.packing=false", "train.checkpoint_steps=0"]
    root = training.make(folder, base, sets)
    # texts longer than a row: each row is full
    data = training.texts(folder / "texts.jsonl", count * length // 400 + 1)
    script = training.spec(
        folder,
        "trainer",
        training.dumped(root, data),
        args={
            "per_device_train_batch_size": ROWS_PER_STEP,
            "train_sampling_strategy": "sequential",
        },
    )
    spent: dict[str, list[float]] = {"mvc": [], "script": []}

    def run(name: str, train: Callable[..., training.Training], *words: str | Path) -> float:
        done = train(name, *words)
        spent[name].append(done.cpu_s)
        return done.steps_per_s

    with training.clocked() as ours, training.clocked() as theirs:
        found = frame.interleaved(
            {
                "mvc": lambda: run("mvc", ours, root, data),
                "script": lambda: run("script", theirs, script),
            },
            warm=1,
        )
    about = "the embedded base" if base == "smollm2-135m" else "a small random Llama"
    return [
        frame.row(
            f"{WHAT}, {about}",
            AGAINST,
            found["mvc"],
            found["script"],
            at_least=0.99,
            unit="steps/s",
            why="the median step of each run; the processor time below says what of it is work",
        ),
        frame.row(
            f"processor time of a step, {about}",
            AGAINST,
            spent["mvc"][1:],
            spent["script"][1:],
            why="all threads of the process; the same products, so that a few per cent between two "
            "runs are the machine's",
        ),
    ]


if __name__ == "__main__":
    main()
