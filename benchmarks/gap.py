"""The gap between the last step of a batch and the first step of the next.

Beside each other in one run: the daemon's stream, a process per batch (`mvc train FILE`), and a
memory copy of the state. On the embedded 135M base, and on a state of the size that the users
have: 80.7M parameters in a wide LoRA on a thin base, 323 MB of adapter and 646 MB of moments.

    python benchmarks/gap.py [--batches 6] [--out gap.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

SMOLLM = ["train.max_length=64", "train.micro_batch_size=1", "train.packing=false"]
WIDE = ["train.max_length=16", "train.micro_batch_size=1", "train.packing=false", "lora.r=2048"]
ROWS = 14  # a batch must outlast the commit of the one before, as it does in use


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


def batches(folder: Path, count: int) -> list[Path]:
    """Data files of real text, `ROWS` rows each."""
    texts = [" ".join(text.split())[:400] for _, text in sorted(topics.items())]
    paths = []
    for i in range(count):
        path = folder / f"batch-{i:02}.jsonl"
        rows = [texts[(i * ROWS + k) % len(texts)] for k in range(ROWS)]
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        paths.append(path)
    return paths


def probe(told: list[tuple[str, float]]) -> None:
    """Note the beginning of each step's computation, and the end of each optimizer step."""
    from mvc.engine.batch import Batch
    from mvc.engine.trainer import BatchTrainer

    step, record = BatchTrainer.training_step, Batch.record

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        told.append(("begin", time.time()))
        return step(self, *args, **kwargs)

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        told.append(("end of batch" if self.done + 1 == self.num_steps else "end", time.time()))
        record(self, *args, **kwargs)

    BatchTrainer.training_step = training_step
    Batch.record = recorded


def gaps(told: list[tuple[str, float]]) -> list[float]:
    """Seconds from each batch's last step to the next batch's first."""
    found, last = [], None
    for what, when in told:
        if what == "begin" and last is not None:
            found.append(when - last)
            last = None
        if what == "end of batch":
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
    copies = []
    for _ in range(5):
        begun = time.time()
        copy = live.copied(tensors)
        copies.append(time.time() - begun)
        del copy
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


def measure(name: str, base: str, sets: list[str], folder: Path, count: int) -> dict[str, Any]:
    """One row of the table; stream and processes take turns on the same files."""
    from mvc.ops import init

    roots = [
        init.init(folder / f"{name}-{kind}", base, sets=sets).root for kind in ("stream", "process")
    ]
    paths = batches(folder, count)
    me = [sys.executable, __file__]
    log, figures = folder / f"{name}.jsonl", folder / f"{name}.json"
    subprocess.run([*me, "--stream", str(roots[0]), str(figures), *map(str, paths)], check=True)
    for path in paths:
        subprocess.run([*me, "--single", str(roots[1]), str(log), str(path)], check=True)
    found = json.loads(figures.read_text())
    told = [tuple(json.loads(line)) for line in log.read_text().splitlines()]
    stream, process, copy = found["gaps"], gaps(told), found["copies"]
    states = [(root / "current_model.dvc").read_text().split("md5: ")[1][:32] for root in roots]
    return {
        "state_mb": found["bytes"] / 1e6,
        "stream_s": statistics.median(stream),
        "stream_max_s": max(stream),
        "process_s": statistics.median(process),
        "copy_s": statistics.median(copy),
        "of_process": statistics.median(stream) / statistics.median(process),
        "of_copy": statistics.median(stream) / statistics.median(copy),
        "same_bits": states[0] == states[1],
        "batches": count,
    }


def main() -> None:
    """Run both sizes and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stream", nargs="+")
    parser.add_argument("--single", nargs=3)
    parser.add_argument("--only", choices=["smollm2-135m", "wide"])
    args = parser.parse_args()
    if args.stream:
        root, out, *paths = map(Path, args.stream)
        streamed(root, paths, out)
        return
    if args.single:
        root, out, path = map(Path, args.single)
        single(root, path, out)
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        found = {}
        if args.only != "wide":
            found["smollm2-135m"] = measure(
                "smollm2-135m", "smollm2-135m", SMOLLM, folder, args.batches
            )
        if args.only != "smollm2-135m":
            base = str(wide_base(folder / "base"))
            found["wide"] = measure("wide", base, WIDE, folder, args.batches)
    text = json.dumps(found, indent=2) + "\n"
    if args.out:
        args.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
