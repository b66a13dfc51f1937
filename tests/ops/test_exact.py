"""Fixed 1, cumulative: batches in processes of their own equal one uninterrupted run, to the bit.

The reference is an unmodified transformers.Trainer over the concatenated rows, with LoRA dropout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvc.engine.state import load_torch
from mvc.ops import train
from mvc.store.layout import Layout
from tests.ops import reference
from tests.ops.conftest import state_bytes, train_one, write_batch
from tests.processes import in_process

ADAM = {"learning_rate": 1e-2, "optim": "adamw_torch_fused", "max_grad_norm": 1.0}
WARM = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2}
MICRO = {"per_device_train_batch_size": 2}

CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "adamw, one pass": ([], {**ADAM, **WARM, **MICRO}),
    "two passes": (["train.passes=2"], {**ADAM, **WARM, **MICRO}),
    "accumulation": (
        ["train.gradient_accumulation_steps=2"],
        {**ADAM, **WARM, **MICRO, "gradient_accumulation_steps": 2},
    ),
    "adamw with weight decay, unfused": (
        ["train.optimizer=adamw_torch", "train.weight_decay=0.1"],
        {**ADAM, **WARM, **MICRO, "optim": "adamw_torch", "weight_decay": 0.1},
    ),
    "adafactor": (
        ["train.optimizer=adafactor"],
        {**ADAM, **WARM, **MICRO, "optim": "adafactor"},
    ),
    "plain sgd": (["train.optimizer=sgd"], {**ADAM, **WARM, **MICRO, "optim": "sgd"}),
    "sgd with momentum": (
        ["train.optimizer=sgd", "train.optimizer_args='momentum=0.9'"],
        {**ADAM, **WARM, **MICRO, "optim": "sgd", "optim_args": "momentum=0.9"},
    ),
    "constant": (
        ["train.schedule=constant"],
        {**ADAM, **MICRO, "lr_scheduler_type": "constant"},
    ),
    "inverse square root": (
        ["train.schedule=inverse_sqrt"],
        {**ADAM, **WARM, **MICRO, "lr_scheduler_type": "inverse_sqrt"},
    ),
    "cosine over a horizon": (
        ["train.schedule=cosine", "train.horizon_steps=12"],
        {**ADAM, **WARM, **MICRO, "lr_scheduler_type": "cosine"},
    ),
    "linear over a horizon": (
        ["train.schedule=linear", "train.horizon_steps=12"],
        {**ADAM, **WARM, **MICRO, "lr_scheduler_type": "linear"},
    ),
    "modules to save": (
        ['lora.modules_to_save=["lm_head"]'],
        {**ADAM, **WARM, **MICRO},
    ),
    "dora": (["lora.use_dora=true"], {**ADAM, **WARM, **MICRO}),
    "packed": (
        ["train.packing=true", "train.micro_batch_size=1"],
        {**ADAM, **WARM, "per_device_train_batch_size": 1},
    ),
    "gradient checkpointing": (
        ["train.gradient_checkpointing=true"],
        {
            **ADAM,
            **WARM,
            **MICRO,
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": False},
        },
    ),
}


def equal(a: Any, b: Any) -> bool:
    """Whether two nested values hold the same bits."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return torch.equal(torch.as_tensor(a), torch.as_tensor(b)) and (
            torch.as_tensor(a).dtype == torch.as_tensor(b).dtype
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if hasattr(a, "dtype"):
        return bool((a == b).all())
    return bool(a == b)


def dump(at: Layout, paths: list[Path], nproc: int = 1) -> list[dict[str, Any]]:
    """All rows of all batches, as they would be trained, in order."""
    out = at.root.parent / "rows.jsonl"
    train.dry_run(at, paths, dump=out, nproc=nproc)
    return [json.loads(line) for line in out.read_text().splitlines()]


def assert_same(at: Layout, out: Path, num_ranks: int = 1) -> None:
    """Compare current_model/ with what the reference saved."""
    from safetensors.torch import load_file

    ours = load_file(at.state / "adapter_model.safetensors")
    theirs = load_file(out / "adapter" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name
    for name in ("optimizer.pt", "scheduler.pt"):
        assert equal(load_torch(at.state / name), load_torch(out / name)), name
    for rank in range(num_ranks):
        name = "rng_state.pth" if num_ranks == 1 else f"rng_state_{rank}.pth"
        assert equal(load_torch(at.state / name), load_torch(out / f"rng_{rank}.pth")), name


@pytest.mark.parametrize("case", CASES)
def test_three_processes_equal_one_trainer(
    case: str, new_model: Callable[..., Layout], batches: list[Path], tiny_base: Path
) -> None:
    sets, arguments = CASES[case]
    at = new_model(*sets)
    rows = dump(at, batches)
    out = at.root.parent / "reference"
    start = out / "start"
    shutil.copytree(at.state, start)
    in_process(lambda: reference.run(tiny_base, start, rows, out, seed=42, **arguments))
    for path in batches:
        in_process(lambda path=path: train_one(at, path))  # type: ignore[misc]
    assert_same(at, out)


def test_a_remainder_equals_one_mvc_process(
    new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    """With 7 rows and accumulation 2 the last step of a batch is a smaller one."""
    paths = [write_batch(tmp_path / f"odd-{i}.jsonl", 7 * i, 7) for i in range(3)]
    sets = ["train.gradient_accumulation_steps=2", "train.passes=1"]
    apart, together = new_model(*sets, name="apart"), new_model(*sets, name="together")
    for path in paths:
        in_process(lambda path=path: train_one(apart, path))  # type: ignore[misc]
    results = list(train.train(together, paths))
    assert [r.commit.steps for r in results] == [2, 2, 2]
    assert state_bytes(apart) == state_bytes(together)


@pytest.mark.slow
def test_two_ranks_equal_an_unmodified_trainer_under_torchrun(
    new_model: Callable[..., Layout], batches: list[Path], tiny_base: Path
) -> None:
    at = new_model("train.micro_batch_size=1")
    rows = dump(at, batches, nproc=2)
    out = at.root.parent / "reference"
    shutil.copytree(at.state, out / "start")
    spec = {
        "base": str(tiny_base),
        "start": str(out / "start"),
        "rows": rows,
        "out": str(out),
        "args": {**ADAM, **WARM, "per_device_train_batch_size": 1, "seed": 42},
    }
    (out / "spec.json").write_text(json.dumps(spec))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [sys.executable, *torchrun, "-m", "tests.ops.reference", str(out / "spec.json")],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    for path in batches:
        result = train_one(at, path, nproc=2)
        assert result.commit.steps == 4
    assert_same(at, out, num_ranks=2)
