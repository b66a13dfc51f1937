"""The user's two bugs and the one behind them: each old recipe still shows its fault, mvc does not.

The recipes are what a loop around the plain transformers Trainer does from batch to batch:
(a) carry the adapter only; (b) resume from the last checkpoint as it lies; (c) copy everything and
set the counter to 0, so that the schedule that ran out is restored. And the newest checkpoint is
the one with the highest number, not the last one in the alphabet.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from mvc.engine import checkpoint
from mvc.engine.state import load_torch
from mvc.errors import Interrupted, ScheduleEnded, StateError
from mvc.ops import train
from mvc.store.layout import Layout
from tests.ops.conftest import Heard, edit, git, sound, state_bytes, train_one, write_batch

NUM_STEPS = 4
CARRIED = ("optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth")


class OldBatch(msgspec.Struct):
    """What one batch of an old recipe did."""

    folder: Path
    rates: list[float]

    @property
    def adapter(self) -> bytes:
        return (self.folder / "adapter_model.safetensors").read_bytes()

    @property
    def moments_step(self) -> int:
        return adam_step(self.folder)


def adam_step(folder: Path) -> int:
    """The step that AdamW counts for its parameters; one for all of them."""
    (step,) = {
        int(entry["step"]) for entry in load_torch(folder / "optimizer.pt")["state"].values()
    }
    return step


def old_batch(
    base: Path, start: Path, rows: list[Any], out: Path, resume: Path | None, schedule: str
) -> OldBatch:
    """One batch with a plain Trainer, from the adapter in `start`; its checkpoint is left."""
    from peft import PeftModel
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    rates: list[float] = []

    class Listen(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, optimizer: Any, **__: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), start, is_trainable=True
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            num_train_epochs=1,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type=schedule,
            report_to=[],
            save_steps=NUM_STEPS,
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(base)),
        callbacks=[Listen()],
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    last = out / f"checkpoint-{NUM_STEPS}"
    if not rates:  # nothing was trained, so nothing was saved: what there is now
        trainer.save_model(last)
        shutil.copy(resume / "optimizer.pt", last)  # type: ignore[operator]
    return OldBatch(last, rates)


def old_rows(at: Layout, path: Path) -> list[Any]:
    """The rows of a batch as both sides train them."""
    out = at.root.parent / "rows.jsonl"
    train.dry_run(at, [path], dump=out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]


@pytest.fixture
def at(new_model: Callable[..., Layout]) -> Layout:
    return new_model("train.warmup_steps=0", "lora.dropout=0")


@pytest.fixture
def first(at: Layout, tiny_base: Path, batches: list[Path], tmp_path: Path) -> OldBatch:
    """The first batch of every old recipe; there is no fault in it."""
    start = tmp_path / "start"
    shutil.copytree(at.state, start)
    made = old_batch(tiny_base, start, old_rows(at, batches[0]), tmp_path / "old-0", None, "linear")
    assert made.rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    assert made.moments_step == NUM_STEPS
    return made


def test_moments_go_on_where_a_fresh_optimizer_began_again(
    at: Layout, first: OldBatch, tiny_base: Path, batches: list[Path], tmp_path: Path
) -> None:
    rows = old_rows(at, batches[1])
    second = old_batch(tiny_base, first.folder, rows, tmp_path / "old-1", None, "linear")
    assert second.moments_step == NUM_STEPS, "the old recipe no longer shows its fault"

    for number, path in enumerate(batches, 1):
        train_one(at, path)
        assert adam_step(at.state) == number * NUM_STEPS


def test_every_batch_runs_all_its_steps_where_a_resumed_one_ended_at_once(
    at: Layout, first: OldBatch, tiny_base: Path, batches: list[Path], tmp_path: Path
) -> None:
    rows = old_rows(at, batches[1])
    second = old_batch(tiny_base, first.folder, rows, tmp_path / "old-1", first.folder, "linear")
    assert second.rates == [], "the old recipe no longer shows its fault"
    assert second.adapter == first.adapter

    adapters = {(at.state / "adapter_model.safetensors").read_bytes()}
    for number, path in enumerate(batches, 1):
        heard = Heard()
        result = train_one(at, path, progress=heard)
        assert heard.starts == [(path.name, NUM_STEPS, 0)]
        assert [point.step for point in heard.points] == [1, 2, 3, 4]
        assert (result.commit.steps, result.commit.lifetime_step) == (4, 4 * number)
        assert json.loads((at.state / "trainer_state.json").read_text())["global_step"] == 0
        assert not list(at.state.glob("checkpoint-*"))
        adapters.add((at.state / "adapter_model.safetensors").read_bytes())
    assert len(adapters) == 4


def test_the_rate_goes_on_where_a_restored_schedule_had_run_out(
    at: Layout, first: OldBatch, tiny_base: Path, batches: list[Path], tmp_path: Path
) -> None:
    current = tmp_path / "current_model"
    shutil.copytree(first.folder, current)
    told = json.loads((current / "trainer_state.json").read_text())
    (current / "trainer_state.json").write_text(json.dumps(told | {"global_step": 0}))
    assert all((current / name).is_file() for name in CARRIED)
    rows = old_rows(at, batches[1])
    second = old_batch(tiny_base, current, rows, tmp_path / "old-1", current, "linear")
    assert second.rates == [0.0] * NUM_STEPS, "the old recipe no longer shows its fault"
    assert second.adapter == first.adapter

    edit(at, "train.schedule=linear", "train.horizon_steps=8")
    rates = []
    for path in batches[:2]:
        before = state_bytes(at)
        heard = Heard()
        train_one(at, path, progress=heard)
        rates += [point.learning_rate for point in heard.points]
        after = state_bytes(at)
        assert before["adapter_model.safetensors"] != after["adapter_model.safetensors"]
    assert rates == pytest.approx([0.01 * (8 - step) / 8 for step in range(8)])


@pytest.mark.parametrize(("horizon", "left"), [(8, 0), (10, 2)])
def test_a_schedule_that_has_run_out_is_an_error_that_says_so(
    horizon: int, left: int, trained: Layout, batches: list[Path]
) -> None:
    git(trained, "reset", "--quiet", "--hard", "HEAD~1")
    edit(trained, "train.schedule=linear", f"train.horizon_steps={horizon}")
    head = git(trained, "rev-parse", "HEAD")
    with pytest.raises(ScheduleEnded) as caught:
        train_one(trained, batches[2])
    assert f"{left} steps are left and this batch has 4" in caught.value.message
    assert "at least 12" in caught.value.hint
    assert git(trained, "rev-parse", "HEAD") == head
    assert adam_step(trained.state) == 8

    edit(trained, "train.horizon_steps=12")
    result = train_one(trained, batches[2])
    assert result.commit.steps == 4
    assert result.commit.learning_rate.last > 0  # type: ignore[union-attr]


def test_a_rate_changed_in_mvc_toml_is_used_and_the_moments_go_on(
    trained: Layout, batches: list[Path]
) -> None:
    before = load_torch(trained.state / "optimizer.pt")
    assert before["param_groups"][0]["lr"] == 1e-2
    edit(trained, "train.learning_rate=5e-4", "train.weight_decay=0.25", "train.logging_steps=2")
    train_one(trained, batches[0], again=True)
    with (trained.root / "loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["lifetime_step"]) for row in rows] == [("2", "14"), ("4", "16")]
    assert {float(row["learning_rate"]) for row in rows} == {5e-4}
    after = load_torch(trained.state / "optimizer.pt")
    for group in after["param_groups"]:
        assert (group["lr"], group["initial_lr"]) == (5e-4, 5e-4)
    assert max(group["weight_decay"] for group in after["param_groups"]) == 0.25
    assert adam_step(trained.state) == 16
    assert after["state"].keys() == before["state"].keys()


def test_a_dropout_changed_in_mvc_toml_is_used(trained: Layout, batches: list[Path]) -> None:
    edit(trained, "lora.dropout=0.5")
    train_one(trained, batches[0], again=True)
    told = json.loads((trained.state / "adapter_config.json").read_text())
    assert told["lora_dropout"] == 0.5


def test_another_optimizer_on_warm_moments_is_refused(trained: Layout, batches: list[Path]) -> None:
    edit(trained, "train.optimizer=sgd")
    before = state_bytes(trained)
    with pytest.raises(StateError, match="was trained with AdamW"):
        train_one(trained, batches[0], again=True)
    assert state_bytes(trained) == before
    assert sound(trained)


def test_checkpoint_1000_is_newer_than_checkpoint_119(tmp_path: Path) -> None:
    for step in (119, 1000, 20):
        folder = checkpoint.begin(tmp_path, step)
        (folder / "weights").write_text("x")
        checkpoint.finish(
            folder,
            checkpoint.Manifest(
                step=step,
                key="this batch",
                files=(),
                curve=(),
                pending=(),
                tokens=0,
                seconds=0.0,
                peak_memory_bytes=0,
            ),
        )
    old = sorted(path.name for path in tmp_path.glob("checkpoint-*"))[-1]
    assert old == "checkpoint-20", "the alphabet still chooses wrongly"
    found = checkpoint.newest(tmp_path, "this batch")
    assert found is not None
    assert found.folder.name == "checkpoint-1000"
    assert [step for step, _ in checkpoint.by_number(tmp_path)] == [1000, 119, 20]


def test_a_batch_resumes_from_the_checkpoint_with_the_highest_number(
    new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    """Stopped after step 10, with checkpoint-9 beside it: step 11 is next, and the bits agree."""
    path = write_batch(tmp_path / "long.jsonl", 0, 24)
    undisturbed, stopped = new_model(name="undisturbed"), new_model(name="stopped")
    train_one(undisturbed, path)
    heard = Heard()
    with pytest.raises(Interrupted):
        train_one(stopped, path, progress=heard, should_stop=lambda: len(heard.points) == 10)
    good = stopped.run / "checkpoints" / "checkpoint-10"
    nine = stopped.run / "checkpoints" / "checkpoint-9"
    shutil.copytree(good, nine)
    (found,) = [c for c in [checkpoint.newest(good.parent, key_of(good))] if c]
    (nine / checkpoint.MANIFEST).write_bytes(msgspec.json.encode(replace(found.manifest, step=9)))
    again = Heard()
    train_one(stopped, path, progress=again)
    assert again.starts == [("long.jsonl", 12, 10)]
    assert state_bytes(stopped) == state_bytes(undisturbed)


def key_of(folder: Path) -> str:
    return str(json.loads((folder / checkpoint.MANIFEST).read_text())["key"])


def test_the_loss_goes_on_from_batch_to_batch(
    new_model: Callable[..., Layout], batches: list[Path]
) -> None:
    """The same rows again and again: each batch goes on below the one before."""
    at = new_model("lora.dropout=0", "train.warmup_steps=0")
    results = [train_one(at, batches[0], again=True) for _ in range(3)]
    means = [result.commit.loss.mean for result in results]  # type: ignore[union-attr]
    assert means == sorted(means, reverse=True)
