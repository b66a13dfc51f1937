"""What there was before mvc: a loop around the plain transformers Trainer, to import from.

`Script` is the old recipe: after each batch optimizer, scheduler, trainer_state and random state
are copied from the last checkpoint to the root of current_model/, the counter is set to 0 and the
checkpoints are deleted; at night current_model/ is copied to snapshots/DAY. No mvc in it.
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CARRIED = ("optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth")
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
TRAIN = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
SETS = (
    *("train.micro_batch_size=2", "train.max_length=32", "train.packing=false"),
    *("snapshot.zone=UTC",),
)
"""What no file of the old recipe tells, for `mvc import`."""


def rows(tokenizer: Any, path: Path) -> list[dict[str, Any]]:
    """The rows of a data file, as a script of one's own would make them."""
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    found = (tokenizer(text, truncation=True, max_length=32)["input_ids"] for text in texts)
    return [{"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)} for ids in found]


def fit(
    base: Path, start: Path | None, data: list[dict[str, Any]], out: Path, **options: Any
) -> None:
    """One run of an unmodified Trainer over `data` in order, from the adapter in `start`."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    resume, lora = options.pop("resume", None), options.pop("lora", {})
    set_seed(7)
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = Trainer(
        model=PeftModel.from_pretrained(model, start, is_trainable=True)
        if start
        else get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{**LORA, **lora})),
        args=TrainingArguments(
            output_dir=str(out),
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=1,
            remove_unused_columns=False,
            **{**TRAIN, **options},
        ),
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.save_model()


class Script:
    """The old recipe in `folder`."""

    def __init__(self, base: Path, folder: Path, **options: Any) -> None:
        self.base, self.folder, self.options = base, folder, options
        self.current = folder / "current_model"

    def batch(self, data: list[dict[str, Any]]) -> None:
        """Train one batch on top of the last one."""
        before = self.current if (self.current / "optimizer.pt").exists() else None
        steps = len(data) // 2
        options = {**self.options, "save_steps": steps, "resume": before}
        fit(self.base, before, data, self.current, **options)
        last = self.current / f"checkpoint-{steps}"
        for name in CARRIED:
            shutil.copy(last / name, self.current)
        path = self.current / "trainer_state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"global_step": 0}))
        for checkpoint in self.current.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    def night(self, day: str, written: datetime | None = None) -> Path:
        """3 AM: the day's snapshot; its files were last written at `written`."""
        pin = self.folder / "snapshots" / day
        shutil.copytree(self.current, pin)
        at(pin, written or datetime.fromisoformat(f"{day}T03:00:07+00:00"))
        return pin


def at(folder: Path, when: datetime) -> None:
    """Let all files of a folder be written at `when`."""
    for path in folder.iterdir():
        os.utime(path, (when.timestamp(), when.timestamp()))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that none was changed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
