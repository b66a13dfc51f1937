"""The measurements of session.py, one process each: `python -m benchmarks.gpu.parts SPEC`.

mvc trains through its engine alone, without git and DVC; `gap` holds the state in memory and
writes it in a thread, as the daemon does.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import gap as between
from benchmarks.gpu.bases import SHAPES, data, make

# --- the measurements -----------------------------------------------------------------------------


def matmul(spec: dict[str, Any]) -> dict[str, Any]:
    """FLOP per second of bf16 products of the base's own shapes: the median, in all of one pass."""
    import torch

    shape = SHAPES[spec["base"]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = max(shape.rows * shape.length, 64)
    pairs = [
        (
            torch.randn(tokens, a, device=device, dtype=torch.bfloat16),
            torch.randn(a, b, device=device, dtype=torch.bfloat16),
        )
        for a, b in shape.linear.values()
    ]
    flops = sum(2.0 * tokens * a * b for a, b in shape.linear.values())
    times = []
    for turn in range(25):
        _synchronize()
        begun = time.perf_counter()
        for x, w in pairs:
            x @ w
        _synchronize()
        if turn >= 5:
            times.append(time.perf_counter() - begun)
    return {"flops": flops / sorted(times)[len(times) // 2], "device": _device()}


def pace(spec: dict[str, Any]) -> dict[str, Any]:
    """Tokens per second inside the loop, without the first two steps; peak memory; the bits."""
    import torch

    if spec.get("exact"):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
        torch.use_deterministic_algorithms(True)
    shape, folder = SHAPES[spec["base"]], Path(spec["folder"])
    where = make(spec["base"], Path(spec["where"]))
    path = data(shape, folder, 1)[0]
    ends, tokens = _watched()
    found: dict[str, Any] = {}
    if spec["who"] == "mvc":
        found["state"] = _train_mvc(spec, where, path)
    else:
        _train_sft(spec, where, path)
    first = 2 if len(ends) > 3 else 0
    found["tokens_per_s"] = sum(tokens[first + 1 : len(ends)]) / (ends[-1] - ends[first])
    found["steps"], found["tokens"], found["device"] = len(ends), sum(tokens), _device()
    if torch.cuda.is_available():
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def gap(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds from a batch's last step to the next one's first, and of a copy of the state."""
    import torch

    from mvc.engine import live, train
    from mvc.engine.batch import Batch

    shape, folder = SHAPES[spec["base"]], Path(spec["folder"])
    where = make(spec["base"], Path(spec["where"]))
    told: list[tuple[str, float]] = []
    between.probe(told, _synchronize)
    taken, stepping = live.take, threading.Event()
    states: list[live.LiveState] = []

    def take(trainer: Any) -> live.LiveState:
        states[:] = [taken(trainer)]
        return states[0]

    def stepped() -> bool:
        if not stepping.is_set():
            stepping.set()
            gc.collect()  # as ops/stream.py: the Trainer's own is 0.3 s over what was imported
            gc.freeze()
        return False

    def write(batch: Batch) -> None:
        stepping.wait()  # as the daemon's writer: serialising holds Python's lock
        batch.write_held()

    live.take = take
    session, job = _session(spec, where)
    lifetime, writer = 0, None
    files = data(shape, folder, 4)
    for path in files:  # the daemon reads them ahead, while the batch before trains
        each = job(path, 0, folder / "ahead")
        session.rows(each.settings, Path(each.state), path, each.data_md5)
    for number, path in enumerate(files):
        each = job(path, lifetime, folder / f"run-{number}")
        batch = train.steps(each, session, should_stop=stepped, warm=number > 0, hold=True)
        lifetime += batch.num_steps
        if writer:
            writer.join()
        stepping.clear()
        writer = threading.Thread(target=write, args=(batch,))
        writer.start()
    assert writer
    stepping.set()
    writer.join()
    gaps = between.gaps(told)
    tensors = {"adapter": states[0].adapter, "optimizer": states[0].optimizer}
    copies, copy = [], live.copied(tensors)
    for _ in range(5):
        _synchronize()
        begun = time.perf_counter()
        copy = live.copied(tensors, copy)  # as the daemon, into memory in use
        copies.append(time.perf_counter() - begun)
    middle = sorted(gaps)[len(gaps) // 2], sorted(copies)[2]
    return {
        "gaps": gaps,
        "copies": copies,
        "of_copy": middle[0] / middle[1],
        "device": _device(),
        "torch": torch.__version__,
    }


# --- who trains -----------------------------------------------------------------------------------


def _session(spec: dict[str, Any], where: Path) -> tuple[Any, Any]:
    """mvc's engine on an untrained state, and a maker of jobs."""
    from mvc.engine import base as bases
    from mvc.engine import files, session, train
    from mvc.settings import BaseSettings, LoraSettings, Settings, TrainSettings

    shape, folder = SHAPES[spec["base"]], Path(spec["folder"])
    found = bases.resolve(str(where))
    settings = Settings(
        base=BaseSettings(model=str(where), digest=found.digest),
        lora=LoraSettings(r=shape.rank),
        train=TrainSettings(
            max_length=shape.length,
            micro_batch_size=shape.rows,
            gradient_checkpointing=bool(spec.get("gradient_checkpointing")),
            checkpoint_steps=0,
        ),
    )
    state = folder / "state"
    if not state.exists():
        state.mkdir()
        session.create(settings, folder, state)

    def job(path: Path, lifetime: int, run: Path) -> train.Job:
        about = files.identify(path)
        run.mkdir(parents=True, exist_ok=True)
        return train.Job(
            settings=settings,
            root=str(folder),
            data=str(path),
            data_name=path.name,
            data_md5=about.md5,
            state=str(state),
            run=str(run),
            parent="",
            lifetime_step=lifetime,
            adapter_md5="",
        )

    return session.Session(folder), job


def _train_mvc(spec: dict[str, Any], where: Path, path: Path) -> str:
    """Train the file through mvc's engine; returns a hash of the new state's bytes."""
    import hashlib
    import shutil

    from mvc.engine import train, trainer

    more = {key: True for key in ("torch_compile", "use_liger_kernel") if spec.get(key)}
    trainer.TrainingArguments = partial(trainer.TrainingArguments, **more)
    session, job = _session(spec, where)
    if spec.get("attention"):
        load = session._load

        def loaded(*args: Any) -> Any:
            model = load(*args)
            model.base_model.model.set_attn_implementation(spec["attention"])
            return model

        session._load = loaded
    run = Path(spec["folder"]) / "run"
    shutil.rmtree(run, ignore_errors=True)
    result = train.run(job(path, 0, run), session)
    digests = sorted((each.path, each.md5) for each in result.files)
    return hashlib.md5(repr(digests).encode(), usedforsecurity=False).hexdigest()


def _train_sft(spec: dict[str, Any], where: Path, path: Path) -> None:
    """Train the file with TRL's SFTTrainer, with packing as its documentation says."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    shape, cuda = SHAPES[spec["base"]], torch.cuda.is_available()
    attention = spec.get("attention", "sdpa")
    args = SFTConfig(
        output_dir=str(Path(spec["folder"]) / "sft"),
        packing=True,
        max_length=shape.length,
        per_device_train_batch_size=shape.rows,
        num_train_epochs=1,
        learning_rate=2e-4,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        optim="adamw_torch_fused",
        weight_decay=0.0,
        logging_steps=1,
        save_strategy="no",
        bf16=cuda,
        use_cpu=not cuda,
        gradient_checkpointing=bool(spec.get("gradient_checkpointing")),
        torch_compile=bool(spec.get("torch_compile")),
        use_liger_kernel=bool(spec.get("use_liger_kernel")),
        report_to=[],
        disable_tqdm=True,
        model_init_kwargs={
            "dtype": torch.bfloat16 if cuda else torch.float32,
            "attn_implementation": attention,
        },
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=shape.rank, lora_alpha=32, target_modules="all-linear"
    )
    SFTTrainer(
        model=str(where),
        args=args,
        train_dataset=load_dataset("json", data_files=str(path), split="train"),
        peft_config=lora,
    ).train()


def _watched() -> tuple[list[float], list[int]]:
    """When each optimizer step ended, and the tokens of each micro-batch (a step is one)."""
    from transformers import Trainer
    from transformers.trainer_callback import CallbackHandler

    ends: list[float] = []
    tokens: list[int] = []
    step, ended = Trainer.training_step, CallbackHandler.on_step_end

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # A row is padded to the longest of its micro-batch; with packing that is next to nothing.
        tokens.append(inputs["input_ids"].numel())
        return step(self, model, inputs, *args, **kwargs)

    def on_step_end(self: Any, *args: Any, **kwargs: Any) -> Any:
        _synchronize()
        ends.append(time.perf_counter())
        return ended(self, *args, **kwargs)

    Trainer.training_step, CallbackHandler.on_step_end = training_step, on_step_end
    return ends, tokens


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    told = {"matmul": matmul, "pace": pace, "gap": gap}[given["part"]](given)
    Path(given["out"]).write_text(json.dumps(told))
