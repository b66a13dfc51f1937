"""The held-out file's metric: a plain computation of its own gives the same value."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mvc.engine import checkpoint, files, gate, rows, session, train
from mvc.engine.gate import GateJob, HeldOut
from mvc.engine.session import Session
from mvc.errors import ConfigError, Worsened
from mvc.settings import LoraSettings, Settings, TrainSettings
from mvc.types import Gate, TrainResult
from tests.engine.test_session import settings_of

TEXTS = (
    "what was trained today",
    "a batch",
    "every batch becomes a commit",
    "the model",
    "moments",
)


def write(path: Path, texts: tuple[str, ...]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def trained(folder: Path, settings: Settings, held_out: Path, metric: str = "loss") -> TrainResult:
    """One batch of three texts, with `held_out` as its gate."""
    (folder / "state").mkdir()
    digests, _ = session.create(settings, folder, folder / "state")
    data = write(folder / "data.jsonl", TEXTS[:3])
    job = train.Job(
        settings=settings,
        root=str(folder),
        data=str(data),
        data_name=data.name,
        data_md5=files.identify(data).md5,
        state=str(folder / "state"),
        run=str(folder / "run"),
        parent="",
        lifetime_step=0,
        adapter_md5=next(d.md5 for d in digests if d.path == "adapter_model.safetensors"),
        gate=GateJob(
            data=str(held_out),
            md5=files.identify(held_out).md5,
            key="key",
            metric=metric,  # type: ignore[arg-type]
            bound=10.0,
        ),
    )
    return train.run(job, Session(folder))


def by_hand(base: Path, state: Path, documents: tuple[str, ...], held_out: rows.Rows) -> float:
    """The mean of -log p of every token but each document's first, one document at a time."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), state).eval()
    lost, count = 0.0, 0
    assert held_out.num_sequences == len(documents)
    for ids in held_out.input_ids:
        with torch.no_grad():
            told = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        lost -= sum(told[i, token].item() for i, token in enumerate(ids[1:]))
        count += len(ids) - 1
    return lost / count


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_the_value_is_that_of_a_plain_computation(
    packing: bool, metric: str, tiny_base: Path, tmp_path: Path
) -> None:
    how = TrainSettings(
        precision="fp32", packing=packing, max_length=64, micro_batch_size=2, warmup_steps=0
    )
    base, lora = settings_of(tiny_base).base, LoraSettings(dropout=0.5)
    settings = Settings(base=base, lora=lora, train=how)
    held_out = write(tmp_path / "held-out.jsonl", TEXTS)
    result = trained(tmp_path, settings, held_out, metric)
    assert result.gate is not None
    whole = rows.prepare(
        files.read(held_out),
        Session(tmp_path).base_tokenizer(settings),
        TrainSettings(packing=False, max_length=64),
    )
    expected = by_hand(tiny_base, result.state_dir, TEXTS, whole)
    expected = expected if metric == "loss" else math.exp(expected)
    assert result.gate == Gate(metric, pytest.approx(expected, rel=1e-5), "key")
    manifest = checkpoint.by_number(tmp_path / "run" / "checkpoints")[0][1] / checkpoint.MANIFEST
    told = json.loads(manifest.read_text())
    assert told["gate"]["value"] == result.gate.value != told["gate_before"]["value"]


def measured(before: float, after: float, bound: float) -> HeldOut:
    job = GateJob("held-out.jsonl", "", "key", "loss", bound, before)
    found = HeldOut(job, rows=None, collator=None)  # type: ignore[arg-type]
    found.after = Gate("loss", after, "key")
    return found


@pytest.mark.parametrize(
    ("before", "after", "bound"), [(2.0, 2.1, 0.2), (2.0, 2.25, 0.25), (2.0, 1.0, 0.0)]
)
def test_what_the_bound_allows_passes(before: float, after: float, bound: float) -> None:
    measured(before, after, bound).judge("monday.jsonl")


@pytest.mark.parametrize(
    ("after", "told"), [(2.125, "2.125"), (math.nan, "nan"), (math.inf, "inf")]
)
def test_what_is_worse_or_no_number_is_refused(after: float, told: str) -> None:
    with pytest.raises(Worsened) as error:
        measured(2.0, after, 0.1).judge("monday.jsonl")
    assert error.value.message == (
        f"monday.jsonl worsened the loss on held-out.jsonl from 2 to {told}, "
        "by more than gate.bound = 0.1"
    )
    assert "mvc train --dry-run" in error.value.hint


def test_values_are_compared_only_where_the_rows_are_the_same() -> None:
    how = TrainSettings()
    assert gate.key("a", how) == gate.key("a", TrainSettings(learning_rate=1.0, passes=3))
    others = [TrainSettings(max_length=8), TrainSettings(packing=False), TrainSettings()]
    keys = {gate.key("a", other) for other in others} | {gate.key("b", how)}
    assert len(keys) == 4


def test_a_state_without_a_finite_value_cannot_be_held_against_it(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = TrainSettings(precision="fp32", warmup_steps=0)
    settings = Settings(base=settings_of(tiny_base).base, train=how)
    monkeypatch.setattr(gate, "loss", lambda *args: 1e4)
    held_out = write(tmp_path / "held-out.jsonl", TEXTS)
    with pytest.raises(ConfigError, match=r"perplexity on held-out\.jsonl is inf before"):
        trained(tmp_path, settings, held_out, "perplexity")
