"""The gap between the last step of a batch and the first step of the next.

Beside each other in one run: the daemon's stream, a process per batch (`mvc train FILE`), and a
memory copy of the state. On the embedded 135M base, and on a state of the size that the users
have: 80.7M parameters in a wide LoRA on a thin base, 323 MB of adapter and 646 MB of moments.

The clock begins with the end of a batch's last step. It ends where the next batch's first
micro-batch begins, and what the first optimizer step waits for the copy of the state is added.

    python -m benchmarks.gap [--base smollm2-135m]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from benchmarks import frame

SMOLLM = ["train.max_length=64", "train.micro_batch_size=1", "train.packing=false"]
WIDE = ["train.max_length=16", "train.micro_batch_size=1", "train.packing=false", "lora.r=2048"]
ROWS = 4  # a batch of the stream must outlast the commit of the one before, as it does in use
SHORT = 1  # a process ends with its commit, and its idle time does not depend on its steps
ROUNDS, ROUND = 2, 4  # six gaps of each


def wide_base(folder: Path) -> Path:
    """A thin Llama whose linear layers take 80.7M parameters of LoRA with r = 2048."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from mvc.engine import base as bases

    tokenizer = bases.load_tokenizer(bases.resolve("smollm2-135m"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=2,
        num_attention_heads=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    return folder


def batches(folder: Path, count: int, rows: int = ROWS) -> list[Path]:
    """Data files of real text, `rows` rows each."""
    folder.mkdir(exist_ok=True)
    texts = [" ".join(text.split())[:400] for _, text in sorted(topics.items())]
    paths = []
    for i in range(count):
        path = folder / f"batch-{i:02}.jsonl"
        some = [texts[(i * rows + k) % len(texts)] for k in range(rows)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
        paths.append(path)
    return paths


def probe(told: list[tuple[str, float]], synchronize: Callable[[], None] = lambda: None) -> None:
    """Note the beginning of each step's computation, the end of each optimizer step, and how long
    the first one was held until the state before it was copied.

    `synchronize` waits for the device, so that the clock tells when it was done.
    """
    from mvc.engine.batch import Batch
    from mvc.engine.trainer import BatchTrainer, Beginning

    step, record, held = BatchTrainer.training_step, Batch.record, Beginning.on_pre_optimizer_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        told.append(("begin", time.time()))
        return step(self, *args, **kwargs)

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        synchronize()
        told.append(("end of batch" if self.done + 1 == self.num_steps else "end", time.time()))
        record(self, *args, **kwargs)

    def on_pre_optimizer_step(self: Any, *args: Any, **kwargs: Any) -> None:
        synchronize()  # the passes that are queued are no wait
        begun = time.time()
        held(self, *args, **kwargs)
        synchronize()
        told.append(("held", time.time() - begun))

    BatchTrainer.training_step = training_step
    Batch.record = recorded
    Beginning.on_pre_optimizer_step = on_pre_optimizer_step


def gaps(told: list[tuple[str, float]]) -> list[float]:
    """Seconds that the GPU waits between each batch's last step and the next batch's first."""
    found: list[float] = []
    last, first = None, False
    for what, when in told:
        if what == "begin" and last is not None:
            found.append(when - last)
            last, first = None, True
        elif what == "held" and first:
            found[-1] += when
            first = False
        elif what == "end of batch":
            last = when
    return found


def streamed(root: Path, paths: list[Path], out: Path) -> None:
    """All batches in this process, as the daemon trains them."""
    import torch

    from mvc.engine import files, live, state
    from mvc.ops.stream import Stream
    from mvc.store.layout import Layout
    from mvc.store.lock import Line

    told: list[tuple[str, float]] = []
    probe(told)
    at = Layout(root)
    with Line(at, "benchmark"):
        stream = Stream(at, "benchmark")
        stream.open()
        for i, path in enumerate(paths):
            for ahead in paths[i + 1 : i + 2]:
                stream.read_ahead(ahead)
            stream.train(files.identify(path))
        stream.close()
    from safetensors.torch import load_file

    tensors = load_file(at.state / state.ADAPTER), state.load_torch(at.state / state.OPTIMIZER)
    copies, copy = [], live.copied(tensors)
    for _ in range(len(paths) - 1):
        begun = time.time()
        copy = live.copied(tensors, copy)  # into memory in use: new memory takes some three times
        copies.append(time.time() - begun)
    size = sum((at.state / name).stat().st_size for name in (state.ADAPTER, state.OPTIMIZER))
    figures = {"gaps": gaps(told), "copies": copies, "bytes": size, "torch": torch.__version__}
    out.write_text(json.dumps(figures))


def single(root: Path, path: Path, out: Path) -> None:
    """One batch in this process: what `mvc train FILE` does."""
    told: list[tuple[str, float]] = []
    probe(told)
    from mvc.ops import train
    from mvc.store.layout import Layout

    list(train.train(Layout(root), [path]))
    with out.open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in told)


def measure(name: str, base: str, sets: list[str], folder: Path) -> dict[str, Any]:
    """Stream and processes take turns, four batches each."""
    from mvc.ops import init

    kinds = {"stream": ROWS, "process": SHORT}
    roots = [init.init(folder / f"{name}-{kind}", base, sets=sets).root for kind in kinds]
    stream, process = (batches(folder / kind, ROUNDS * ROUND, rows) for kind, rows in kinds.items())
    me = [sys.executable, "-m", "benchmarks.gap"]
    log, figures = folder / f"{name}.jsonl", folder / f"{name}.json"
    found: dict[str, Any] = {"stream": [], "process": [], "copy": []}
    for turn in range(ROUNDS):
        now = slice(turn * ROUND, (turn + 1) * ROUND)
        some = list(map(str, stream[now]))
        subprocess.run([*me, "--stream", str(roots[0]), str(figures), *some], check=True)
        told = json.loads(figures.read_text())
        log.unlink(missing_ok=True)
        for path in process[now]:
            subprocess.run([*me, "--single", str(roots[1]), str(log), str(path)], check=True)
        found["stream"] += told["gaps"]
        found["copy"] += told["copies"]
        lines = log.read_text().splitlines()
        found["process"] += gaps([tuple(json.loads(line)) for line in lines])
        frame.tell(f"  stream {told['gaps']}, process {found['process'][-ROUND + 1 :]}")
    return found | {"bytes": told["bytes"]}


def main() -> None:
    """Run one size, by default the user's, and write results/gap.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", choices=["wide", "smollm2-135m"], default="wide")
    parser.add_argument("--stream", nargs="+")
    parser.add_argument("--single", nargs=3)
    args = parser.parse_args()
    if args.stream:
        root, out, *paths = map(Path, args.stream)
        streamed(root, paths, out)
    elif args.single:
        root, out, path = map(Path, args.single)
        single(root, path, out)
    else:
        with frame.workplace() as folder:
            wide = args.base == "wide"
            base = str(wide_base(folder / "base")) if wide else args.base
            found = measure(args.base, base, WIDE if wide else SMOLLM, folder)
        told(args.base, found)


def told(base: str, found: dict[str, Any]) -> None:
    """Write the rows; the file of another base than the user's size has its name."""
    what = f"idle between two batches, {found['bytes'] / 1e6:,.0f} MB, daemon, on a CPU"
    rows = [
        frame.row(what, "a process per batch", found["stream"], found["process"], at_most=0.05,
                  why="a process writes its commit, ends, imports and loads; the daemon copies"),
        frame.row(what, "a memory copy of the state", found["stream"], found["copy"], at_most=1.5,
                  why="a daemon's first copy goes into new memory, the least that a copy takes "
                  "here is into memory in use; copies are timed after the stream"),
    ]  # fmt: skip
    frame.write("gap" if base == "wide" else f"gap-{base}", rows, found=found)


if __name__ == "__main__":
    main()
