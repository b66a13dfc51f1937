"""Tokens per second on short chats: `mvc train` packs them; a Trainer script pads them.

The third is TRL's SFTTrainer with packing=True, as its documentation says, on the same file. All
train the same tokens once; padding counts for nobody. A small random Llama.

    python -m benchmarks.packing
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from benchmarks import frame, training

CHATS = 40
LENGTH = 256
ROWS = 8  # of a micro-batch, packed or not: the Trainer's default
SFT = {
    "packing": True,
    "max_length": LENGTH,
    # its defaults are for a GPU, and would slow it down here
    "bf16": False,
    "gradient_checkpointing": False,
}
WHAT = "tokens per second on short rows (chats)"


def main() -> None:
    """Measure, write results/packing.json."""
    with frame.workplace() as folder:
        sets = [f"train.max_length={LENGTH}", f"train.micro_batch_size={ROWS}"]
        root = training.make(folder, "middle", sets)
        padded = training.make(folder, "middle", [*sets, "train.packing=false"])
        data = training.chats(folder / "chats.jsonl", CHATS)
        dump = training.dumped(padded, data)
        args = {"per_device_train_batch_size": ROWS}
        plain = training.spec(folder, "trainer", dump, args=args)
        sft = training.spec(folder, "sft", data, args=args | SFT)
        lengths = [len(json.loads(line)["input_ids"]) for line in dump.open()]

        def pace(train: Callable[..., training.Training], *words: str | Path) -> float:
            return sum(lengths) / train(*words).loop_s

        with (
            training.clocked() as ours,
            training.clocked() as theirs,
            training.clocked() as packs,
        ):
            found = frame.interleaved(
                {
                    "mvc": lambda: pace(ours, "mvc", root, data),
                    "script": lambda: pace(theirs, "script", plain),
                    "sft": lambda: pace(packs, "script", sft),
                },
                warm=1,
            )
    middle, most = sorted(lengths)[len(lengths) // 2], max(lengths)
    about = (
        f"rows of {middle} tokens (median) to {most}: a script that pads computes some "
        f"{padded_to(lengths):.1f} tokens for each that is trained, all that packing can gain here"
    )
    rows = [
        frame.row(
            WHAT,
            "the Trainer script without packing",
            found["mvc"],
            found["script"],
            at_least=2.0,
            unit="tokens/s",
            why=about,
        ),
        frame.row(
            WHAT,
            "TRL's SFTTrainer with packing",
            found["mvc"],
            found["sft"],
            at_least=1.0,
            unit="tokens/s",
            why="TRL lays the packed rows end to end, as one; attention over it costs a CPU "
            "without flash attention more than the padding did",
        ),
    ]
    frame.write("packing", rows)


def padded_to(lengths: list[int]) -> float:
    """Tokens that are computed for each of the rows', in shuffled micro-batches padded to their
    longest."""
    order = random.Random(0).sample(lengths, len(lengths))
    batches = (order[at : at + ROWS] for at in range(0, len(order), ROWS))
    computed = sum(max(batch) * len(batch) for batch in batches)
    return computed / sum(lengths)


if __name__ == "__main__":
    main()
