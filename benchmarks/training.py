"""What steps, packing and memory share: a model repo, the same rows for a script, and a clock.

Each side trains in a process of its own, which stays from turn to turn: to import torch and
transformers takes longer than a short training. The clock is the same for all: it notes when the
first micro-batch begins and when each optimizer step ends, so that loading is no part of the pace.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from benchmarks import frame

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
ARGS = {
    "num_train_epochs": 1,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 20,
    "optim": "adamw_torch_fused",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
}
"""mvc.toml's defaults in the Trainer's words."""


@dataclass(frozen=True)
class Training:
    """The pace inside the loop of one training.

    `steps` optimizer steps; `steps_per_s` of the median step; `loop_s` from the first micro-batch
    to the end of the last step; `cpu_s` the processor's seconds of a step, which other work on the
    machine touches less.
    """

    steps: int
    steps_per_s: float
    loop_s: float
    cpu_s: float


@contextmanager
def clocked() -> Iterator[Callable[..., Training]]:
    """A process for trainings under the clock: called with `mvc`, ROOT, FILE, or `script`, SPEC."""
    log = Path(os.environ["HOME"]) / "clocked.log"
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, (log,)) as pool:

        def train(*words: str | Path) -> Training:
            try:
                return pool.submit(_clock, *map(str, words)).result()
            except Exception as error:
                raise RuntimeError(f"{words}: {error}\n{log.read_text()[-4000:]}") from error

        yield train


def child(*words: str | Path) -> tuple[int, float]:
    """Run this Python to its end; returns its peak of resident memory in bytes, and its seconds.

    A child begins with the parent's peak (getrusage(2), vfork), so the parent stays small.
    """
    begun = time.perf_counter()
    with (Path(os.environ["HOME"]) / "child.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = Path(log.name).read_text()[-4000:]
        raise RuntimeError(f"{' '.join(map(str, words))}: {process.returncode}\n{said}")
    return usage.ru_maxrss * 1024, time.perf_counter() - begun


def make(folder: Path, base: str, sets: Iterable[str]) -> Path:
    """A model repo on `base`: smollm2-135m, wide or middle, as a folder of safetensors.

    A folder, so that the script needs nothing of mvc's to load it.
    """
    where = folder / "base"
    if not where.exists():
        child("-m", "benchmarks.training", "--base", base, where)
    flags = [word for each in sets for word in ("--set", each)]
    root = folder / f"model-{len(list(folder.glob('model-*')))}"
    frame.call("mvc", "init", root, "--base", where, *flags, cwd=folder)
    return root


def spec(folder: Path, kind: str, rows: Path, **more: Any) -> Path:
    """A spec for benchmarks.script, with mvc.toml's defaults; `args` and `lora` come on top."""
    args, lora = ARGS | more.pop("args", {}), LORA | more.pop("lora", {})
    path = folder / f"{kind}.json"
    base, out = str(folder / "base"), str(folder / f"{kind}-out")
    found = {"kind": kind, "base": base, "rows": str(rows), "out": out, "lora": lora, "args": args}
    path.write_text(json.dumps(found | more))
    return path


def dumped(root: Path, data: Path) -> Path:
    """The rows of a data file as mvc would train them: `input_ids` and `labels`."""
    out = data.with_suffix(".rows.jsonl")
    frame.call("mvc", "train", data, "--dry-run", "--dump", out, cwd=root)
    return out


def texts(path: Path, count: int) -> Path:
    """A data file of `count` long texts, Python's own documentation."""
    found = [" ".join(text.split()) for _, text in sorted(topics.items()) if len(text) > 1500]
    rows = ({"text": found[i % len(found)][:1500]} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def short(path: Path, count: int) -> Path:
    """A data file of `count` texts of a few words, each one row."""
    names = sorted(topics)
    rows = ({"text": f"what is known about {name}"} for name in names[:count])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chats(path: Path, count: int) -> Path:
    """A data file of `count` short chats: a question, and a paragraph of the documentation.

    Their lengths are those that real paragraphs have.
    """
    pairs = [
        (name, " ".join(part.split()))
        for name, text in sorted(topics.items())
        for part in text.split("\n\n")
        if len(part.split()) > 2
    ]
    some = [pairs[i * len(pairs) // count] for i in range(count)]
    rows = (
        [
            {"role": "user", "content": f"What is there to know about {name.lower()}?"},
            {"role": "assistant", "content": answer},
        ]
        for name, answer in some
    )
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


# --- in the child -----------------------------------------------------------------------------


def _base(name: str, where: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.gap import wide_base
    from mvc.engine import base as bases

    if name == "wide":
        wide_base(where)
        return
    found = bases.resolve("smollm2-135m")
    tokenizer = bases.load_tokenizer(found)
    if name == "smollm2-135m":
        bases.load_model(found, "fp32").save_pretrained(where)
    else:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=4,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        LlamaForCausalLM(config).save_pretrained(where)
    tokenizer.save_pretrained(where)


_begins: list[float] = []
_ends: list[float] = []
_spent: list[float] = []


def _begin(log: Path) -> None:
    """In a new process: what is said goes to a file, and the clock is set."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from transformers import Trainer
    from transformers.trainer_callback import CallbackHandler

    step, ended = Trainer.training_step, CallbackHandler.on_step_end

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        _begins.append(time.perf_counter())
        return step(self, *args, **kwargs)

    def on_step_end(self: Any, *args: Any, **kwargs: Any) -> Any:
        _ends.append(time.perf_counter())
        _spent.append(time.process_time())
        return ended(self, *args, **kwargs)

    Trainer.training_step, CallbackHandler.on_step_end = training_step, on_step_end


def _clock(what: str, *words: str) -> Training:
    for noted in (_begins, _ends, _spent):
        noted.clear()
    if what == "script":
        from benchmarks import script

        script.main(Path(words[0]))
    else:
        from mvc.cli.main import run

        if code := run(["-C", words[0], "train", "--again", words[1]]):
            raise RuntimeError(f"mvc train ended with {code}")
    gc.collect()
    # The median step: on two cores whatever else runs stretches one in ten to half as much again.
    pace = 1 / statistics.median(b - a for a, b in pairwise(_ends))
    cpu = (_spent[-1] - _spent[0]) / (len(_spent) - 1)
    return Training(len(_ends), pace, _ends[-1] - _begins[0], cpu)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--base", name, where]:
            _base(name, Path(where))
