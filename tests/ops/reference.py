"""The reference of Fixed 1: one unmodified transformers.Trainer over all rows, with no mvc in it.

`python -m tests.ops.reference SPEC.json` runs it under torchrun too. The rows come from
`mvc train --dry-run --dump`, the start from the state that `mvc init` committed.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any


def run(base: Path, start: Path, rows: list[dict[str, Any]], out: Path, **arguments: Any) -> None:
    """Train `rows` in order in one go and save adapter, optimizer, scheduler and random state."""
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    packed = "seq_lengths" in rows[0]
    if packed:
        model.config.use_cache = False
        collator: Any = DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=True)
    else:
        rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
        collator = DataCollatorForSeq2Seq(tokenizer)
    kept: dict[str, Any] = {}

    class Keep(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            kept.update(
                python=random.getstate(),
                numpy=np.random.get_state(),
                cpu=torch.random.get_rng_state(),
            )

    trainer = Trainer(
        model=PeftModel.from_pretrained(model, start, is_trainable=True),
        args=TrainingArguments(
            output_dir=str(out / "trainer"),
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
            **arguments,
        ),
        train_dataset=rows,
        data_collator=collator,
        callbacks=[Keep()],
    )
    trainer.train()
    rank = int(os.environ.get("RANK", "0"))
    torch.save(kept, out / f"rng_{rank}.pth")
    if rank == 0:
        trainer.model.save_pretrained(out / "adapter", save_embedding_layers=False)
        torch.save(trainer.optimizer.state_dict(), out / "optimizer.pt")
        torch.save(trainer.lr_scheduler.state_dict(), out / "scheduler.pt")


if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    run(Path(spec["base"]), Path(spec["start"]), spec["rows"], Path(spec["out"]), **spec["args"])
