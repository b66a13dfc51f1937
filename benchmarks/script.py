"""What a user would write instead: a Trainer script with PEFT, and one with TRL's SFTTrainer.

Nothing of mvc is in it. It trains the rows once and leaves a checkpoint to go on from.

    python -m benchmarks.script SPEC.json

SPEC holds `kind` (trainer or sft), `base`, `rows` (a .jsonl), `out`, `lora` and `args` as keyword
arguments of LoraConfig and TrainingArguments, and perhaps `resume`, a checkpoint to go on from.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def trainer(spec: dict[str, Any]) -> None:
    """transformers' Trainer over rows of `input_ids` and `labels`, padded to a batch's longest."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(spec["base"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **spec["lora"]))
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text().splitlines()]
    built = Trainer(
        model=model,
        args=TrainingArguments(output_dir=spec["out"], report_to=[], **spec["args"]),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    built.train(resume_from_checkpoint=spec.get("resume"))


def sft(spec: dict[str, Any]) -> None:
    """TRL's SFTTrainer over the data file itself: it applies the chat template and packs."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    built = SFTTrainer(
        model=spec["base"],
        args=SFTConfig(
            output_dir=spec["out"],
            report_to=[],
            model_init_kwargs={"dtype": torch.float32},
            **spec["args"],
        ),
        train_dataset=load_dataset("json", data_files=spec["rows"], split="train"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **spec["lora"]),
    )
    built.train(resume_from_checkpoint=spec.get("resume"))


def main(path: Path) -> None:
    """Run what the spec names."""
    spec = json.loads(path.read_text())
    {"trainer": trainer, "sft": sft}[spec["kind"]](spec)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
