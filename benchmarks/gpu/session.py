"""A whole session on one GPU: rates, the gap between batches, and what the same bits cost.

    python -m benchmarks.gpu.session [PART ...] [--base 7b|1b] [--out gpu.json] [--seconds 540]

Parts, all by default: matmul, pace, gap, exact. Each measurement is a process of its own, its
figures are in the file as soon as it ends, and none begins after `--seconds`: run it again with
the same `--out` and it goes on with what is missing. `--tiny` shrinks every shape, so that a
machine without a GPU can show that the program works; its figures mean nothing.

`python -m benchmarks.gpu.rows gpu.json` makes rows of the table of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import frame
from benchmarks.gpu.bases import SHAPES, flops_per_token

REPEATS = 5
VARIANTS: dict[str, dict[str, Any]] = {
    # sdpa is what mvc trains with today; the others are tried for what they would bring
    "sdpa": {},
    "checkpointing": {"gradient_checkpointing": True},
    "flash": {"attention": "flash_attention_2"},
    "compile": {"torch_compile": True},
    "liger": {"use_liger_kernel": True},
}


def main() -> None:
    """Run what is missing of the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["matmul", "pace", "gap", "exact"])
    parser.add_argument("--base", choices=list(SHAPES), default="7b")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    base = "tiny" if args.tiny else args.base
    with frame.workplace() as folder:
        where = Path(os.environ.get("MVC_GPU_BASES", tempfile.gettempdir())) / f"base-{base}"
        session = Session(base, where, folder, args.out, time.monotonic() + args.seconds)
        for part in args.parts:
            getattr(session, part)()
        session.conclude()


class Session:
    """What was measured, in a file that grows; `until` is when no more is begun."""

    def __init__(self, base: str, where: Path, folder: Path, out: Path, until: float) -> None:
        self.base, self.where, self.folder, self.out, self.until = base, where, folder, out, until
        old = json.loads(out.read_text()) if out.exists() else {}
        self.found: dict[str, Any] = old if old.get("base") == base else {"base": base, "runs": {}}

    def run(self, name: str, part: str, **spec: Any) -> dict[str, Any] | None:
        """One measurement in a process of its own, unless it is there already or it is too late."""
        if name in self.found["runs"]:
            return dict(self.found["runs"][name])
        if time.monotonic() > self.until:
            frame.tell(f"{name}: no time left")
            return None
        told: dict[str, Any]
        said = self.folder / "said.json"
        said.unlink(missing_ok=True)
        spec |= {"part": part, "base": self.base, "where": str(self.where)}
        spec |= {"folder": str(self.folder), "out": str(said)}
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu.parts", json.dumps(spec)],
            capture_output=True,
            text=True,
        )
        if done.returncode or not said.exists():
            told = {"error": (done.stderr.strip().splitlines() or ["nothing said"])[-1][:500]}
        else:
            told = json.loads(said.read_text())
        told["process_s"] = time.monotonic() - begun
        self.found["runs"][name] = told
        self.out.write_text(json.dumps(self.found, indent=2) + "\n")
        frame.tell(f"{name}: {json.dumps(told)[:200]}")
        return told

    def matmul(self) -> None:
        """The device's own rate of products of the base's shapes, in bf16."""
        self.run("matmul", "matmul")

    def pace(self) -> None:
        """Tokens per second, mvc beside SFTTrainer, the same settings, taking turns."""
        for name, settings in VARIANTS.items():
            for turn in range(REPEATS if name == "sdpa" else 1):
                for who in ("mvc", "sft") if turn % 2 == 0 else ("sft", "mvc"):
                    self.run(f"pace/{name}/{who}/{turn}", "pace", who=who, **settings)

    def gap(self) -> None:
        """From a batch's last step to the next one's first, beside a copy of the state."""
        self.run("gap", "gap")

    def exact(self) -> None:
        """The same batch twice, as it is and with deterministic algorithms: bits and pace."""
        for kind in ("as it is", "deterministic"):
            for turn in range(2):
                self.run(f"exact/{kind}/{turn}", "pace", who="mvc", exact=kind == "deterministic")

    def conclude(self) -> None:
        """The figures that follow from what is there; written with the rest."""
        runs = {name: told for name, told in self.found["runs"].items() if "error" not in told}
        paces: dict[str, list[float]] = {}
        for name, told in runs.items():
            if name.startswith("pace/"):
                paces.setdefault(name.rpartition("/")[0], []).append(told["tokens_per_s"])
        middle = {name: sorted(each)[len(each) // 2] for name, each in paces.items()}
        rate = runs.get("matmul", {}).get("flops")
        self.found["tokens_per_s"] = middle
        self.found["of_sft"] = {
            name.split("/")[1]: pace / middle[name.replace("/mvc", "/sft")]
            for name, pace in middle.items()
            if name.endswith("/mvc") and name.replace("/mvc", "/sft") in middle
        }
        if rate:
            flops = flops_per_token(self.base)
            self.found["mfu"] = {name: pace * flops / rate for name, pace in middle.items()}
        for kind in ("as it is", "deterministic"):
            two = [runs.get(f"exact/{kind}/{turn}") for turn in range(2)]
            if two[0] and two[1]:
                self.found[f"same bits, {kind}"] = two[0]["state"] == two[1]["state"]
        plain, exact = runs.get("exact/as it is/1"), runs.get("exact/deterministic/1")
        if plain and exact:
            self.found["pace of exact"] = exact["tokens_per_s"] / plain["tokens_per_s"]
        self.found["about"] = frame.about()
        self.out.write_text(json.dumps(self.found, indent=2) + "\n")


if __name__ == "__main__":
    main()
