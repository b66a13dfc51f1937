"""The GPU session's figures as rows of the table: writes results/gpu.json.

python -m benchmarks.gpu.rows gpu.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import frame
from benchmarks.gpu.bases import flops_per_token


def main() -> None:
    """Read the session's file, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("session", type=Path)
    found = json.loads(parser.parse_args().session.read_text())
    runs = {name: run for name, run in found["runs"].items() if "error" not in run}
    frame.write("gpu", rows(found["base"], runs), about=found["about"])


def rows(base: str, runs: dict[str, dict[str, Any]]) -> list[frame.Row]:
    """The rows of what was measured."""

    def of(prefix: str, key: str = "tokens_per_s") -> list[float]:
        return [run[key] for name, run in sorted(runs.items()) if name.startswith(f"{prefix}/")]

    card, where = runs["matmul"]["device"], f"a random {base} base as Qwen2.5's, LoRA r=32, bf16"
    ours, sft, gap = of("pace/sdpa/mvc"), of("pace/sdpa/sft"), runs["gap"]
    full = runs["matmul"]["flops"] / flops_per_token(base)  # tokens/s at the device's own rate
    as_it_is, exact = of("exact/as it is"), of("exact/deterministic")
    states = [runs[f"exact/{kind}/{turn}"]["state"]
              for kind in ("as it is", "deterministic") for turn in (0, 1)]  # fmt: skip
    same = ["the same" if a == b else "other" for a, b in (states[:2], states[2:])]
    checkpointing = of("pace/checkpointing/mvc")
    return [
        frame.row(f"{card}: tokens per second, {where}", "TRL's SFTTrainer, the same settings",
                  ours, sft, at_least=1.0, unit="tokens/s",
                  why="one row of 4,096 packed tokens a step, sdpa, fused AdamW; a run each turn"),
        frame.row(f"{card}: model FLOP utilisation", "its rate of bf16 products of the shapes",
                  ours, [full] * len(ours), unit="tokens/s",
                  why=f"{runs['matmul']['flops'] / 1e12:.0f} TFLOP/s; a row alone, unmerged LoRA "
                  "and a masked sdpa leave it waiting; flash attention was not installed there"),
        frame.row(f"{card}: peak memory of the device", "TRL's SFTTrainer, the same settings",
                  of("pace/sdpa/mvc", "peak_gb"), of("pace/sdpa/sft", "peak_gb"), unit="GB",
                  why="TRL computes the loss in pieces; the Trainer, and mvc with it, all logits"),
        frame.row(f"{card}: idle between two batches, 969 MB", "a copy of the state off the device",
                  gap["gaps"], gap["copies"][: len(gap["gaps"])], at_most=1.5,
                  why="Python readies the next batch while the device waits (see below for what of "
                  "it went since 2026-11-26); a process needs some 15 s"),
        frame.row(f"{card}: deterministic algorithms", "the same without",
                  exact, as_it_is, unit="tokens/s",
                  why=f"two runs end in {same[1]} bits; without, in {same[0]} bits"),
        frame.row(f"{card}: gradient checkpointing", "the same without",
                  checkpointing, ours[: len(checkpointing)], unit="tokens/s",
                  why=f"at {runs['pace/checkpointing/mvc/0']['peak_gb']:.0f} GB instead of "
                  f"{runs['pace/sdpa/mvc/0']['peak_gb']:.0f}"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
