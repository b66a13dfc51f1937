"""A model repo needs no mvc: git, DVC, PEFT and the Trainer do what they do anywhere.

Every tool runs in a process of its own that cannot import mvc: a `sitecustomize` on its
PYTHONPATH refuses the name, for the processes that it starts too. One test proves the refusal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from mvc.ops import init, train
from mvc.store.layout import Layout
from mvc.types import BatchResult
from tests.ops.conftest import SETS, state_bytes

NO_MVC = """\
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "mvc" or name.startswith("mvc."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""
SENTENCES = (
    "what was trained today can be brought back tomorrow",
    "every batch becomes a commit and every commit has its state",
    "the moments and the schedule go on from one batch to the next",
    "a snapshot is a day that stays",
)
STEPS = 12


@dataclass(frozen=True)
class Story:
    """A model repo after three batches, and what each commit was when it was HEAD."""

    at: Layout
    home: Path
    base: Path
    results: tuple[BatchResult, ...]
    states: dict[str, dict[str, bytes]]

    @property
    def commits(self) -> list[str]:
        return [result.commit.commit for result in self.results]

    def plain(self, *command: str, cwd: Path | None = None, ok: bool = True) -> str:
        """Run a command without mvc; returns what it printed."""
        path = [p for p in os.environ["PATH"].split(os.pathsep) if not Path(p, "mvc").exists()]
        done = subprocess.run(
            command,
            cwd=cwd or self.at.root,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(self.home), "PATH": os.pathsep.join(path)},
        )
        if ok:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + ("" if ok else done.stderr)

    def dvc(self, *args: str, cwd: Path | None = None) -> str:
        return self.plain(sys.executable, "-m", "dvc", *args, cwd=cwd)


def _texts(path: Path, number: int, rows: int) -> Path:
    """The same few sentences in every batch, so that the loss can only fall."""
    words = [SENTENCES[(i + number) % len(SENTENCES)] for i in range(rows)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in words))
    return path


def _with_longer_embeddings(base: Path, folder: Path) -> Path:
    """The tiny base, its logits not all near 0: with those no adapter could learn anything."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def story(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("plain")
    home = folder / "no-mvc"
    home.mkdir()
    (home / "sitecustomize.py").write_text(NO_MVC)
    base = _with_longer_embeddings(tiny_base, folder / "base")
    made = init.init(
        folder / "model",
        str(base),
        sets=[*SETS, "train.max_length=64", "lora.dropout=0.0"],
    )
    at = Layout(made.root)
    states = {made.commit.commit: state_bytes(at)}
    results = []
    for number in range(3):
        path = _texts(folder / f"day-{number}.jsonl", number, 2 * STEPS)
        (result,) = train.train(at, [path])
        states[result.commit.commit] = state_bytes(at)
        results.append(result)
    return Story(at, home, base, tuple(results), states)


def test_these_processes_have_no_mvc(story: Story) -> None:
    said = story.plain(sys.executable, "-c", "import mvc.ops.train", ok=False)
    assert "No module named 'mvc'" in said
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import mvc'])"
    assert "No module named 'mvc'" in story.plain(sys.executable, "-c", nested, ok=False)
    assert not story.plain("sh", "-c", "command -v mvc || true")


def test_the_users_check_list(story: Story) -> None:
    """Verbatim, as it is typed in the model repo."""

    def shell(line: str, ok: bool = True) -> str:
        return story.plain("sh", "-c", line, ok=ok)

    assert "current_model/optimizer.pt" in shell("ls -lh current_model/optimizer.pt")
    lines = shell("grep global_step current_model/trainer_state.json").splitlines()
    # The Trainer's own field of that name's end is a batch's best step: none was chosen.
    assert lines == ['  "best_global_step": null,', '  "global_step": 0,']
    assert "No such file" in shell("ls -d current_model/checkpoint-*", ok=False)
    assert shell("ls -d current_model/checkpoint-* 2>/dev/null | wc -l").strip() == "0"


def test_the_loss_goes_on_and_every_step_runs(story: Story) -> None:
    """A batch begins where the last one ended: a reset would show as a sawtooth."""
    curves = []
    for result in story.results:
        rows = story.plain("git", "show", f"{result.commit.commit}:loss.csv").splitlines()[1:]
        curves.append([float(row.split(",")[2]) for row in rows])
        assert result.commit.steps == len(rows) == STEPS
    fresh = mean(curves[0][:4])
    for before, after in pairwise(curves):
        assert mean(before[-4:]) < fresh - 1, "the text was not learnt: this test shows nothing"
        assert mean(after[:4]) < mean(before[-4:]) + 0.25
    assert mean(curves[2][-4:]) < mean(curves[0][-4:]) - 0.2
    numbers = [story.plain("git", "log", "-1", "--format=%B", c) for c in story.commits]
    assert [f"Lifetime-Step: {STEPS * n}" in text for n, text in enumerate(numbers, 1)] == [
        True
    ] * 3


def test_status_is_clean(story: Story) -> None:
    assert "up to date" in story.dvc("status")
    assert story.plain("git", "status", "--porcelain") == ""


def test_checkout_of_an_older_commit_and_back(story: Story) -> None:
    try:
        for commit in story.states:
            story.plain("git", "checkout", "-q", commit)
            story.dvc("checkout")
            assert state_bytes(story.at) == story.states[commit]
    finally:
        story.plain("git", "checkout", "-q", "main")
        story.dvc("checkout")
    assert state_bytes(story.at) == story.states[story.commits[-1]]
    assert "up to date" in story.dvc("status")


def test_metrics_diff_shows_the_batches(story: Story) -> None:
    told = json.loads(story.dvc("metrics", "diff", "HEAD~1", "HEAD", "--json"))["metrics.json"]
    _, old, new = (result.commit for result in story.results)
    assert old.loss
    assert new.loss
    for key in ("first", "last", "mean"):
        shown = told[f"loss.{key}"]
        assert (shown["old"], shown["new"]) == (getattr(old.loss, key), getattr(new.loss, key))
    assert told["batch"] == {"old": 2, "new": 3, "diff": 1}
    assert told["lifetime_step"] == {"old": 2 * STEPS, "new": 3 * STEPS, "diff": STEPS}
    table = story.dvc("metrics", "diff", "HEAD~1", "HEAD", "--md", "--precision", "17")
    assert str(old.loss.last) in table
    assert str(new.loss.last) in table


def test_plots_diff_shows_the_curves(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "plots"
    story.dvc("plots", "diff", "HEAD~1", "HEAD", "--out", str(out))
    page = (out / "index.html").read_text()
    for commit in story.commits[1:]:
        for row in story.plain("git", "show", f"{commit}:loss.csv").splitlines()[1:]:
            _, step, loss, *_ = row.split(",")
            assert f'"{loss}"' in page or f": {loss}" in page, (step, loss)
    assert '"HEAD~1"' in page
    assert "Loss over the life of the line" in page
    assert not story.plain("git", "status", "--porcelain")


def test_push_and_pull_through_a_folder(story: Story, tmp_path: Path) -> None:
    """All commits arrive, with their data; only the base model stays where it was."""
    root, clone = story.at.root, tmp_path / "clone"
    story.dvc("remote", "add", "-q", "--local", "-d", "store", str(tmp_path / "store"))
    story.dvc("push", "-q", "--all-commits")
    story.plain("git", "clone", "-q", str(root), str(clone))
    story.dvc("remote", "add", "-q", "--local", "-d", "store", str(tmp_path / "store"), cwd=clone)
    for commit in (story.commits[-1], story.commits[0]):
        story.plain("git", "checkout", "-q", commit, cwd=clone)
        story.dvc("pull", "-q", cwd=clone)
        assert state_bytes(Layout(clone)) == story.states[commit]
    (data,) = (clone / "batch").iterdir()
    assert data.read_bytes() == (root.parent / "day-0.jsonl").read_bytes()


TRAINER = """\
import json, sys, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from transformers import default_data_collator

base, out, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained("current_model")
model = PeftModel.from_pretrained(
    AutoModelForCausalLM.from_pretrained(base), "current_model", is_trainable=True
)
stored = load_file("current_model/adapter_model.safetensors")

def adapter():
    found = model.named_parameters()
    return {n.replace(".default", ""): p.detach().clone() for n, p in found if p.requires_grad}

before = adapter()
ids = tokenizer(text, truncation=True, max_length=16)["input_ids"]
rows = [{"input_ids": ids, "labels": ids} for _ in range(10)]
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        out, per_device_train_batch_size=2, num_train_epochs=1, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True, logging_steps=1,
    ),
    train_dataset=rows,
    data_collator=default_data_collator,
)
result = trainer.train(resume_from_checkpoint="current_model")
losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
print("SAID", json.dumps({
    "names": sorted(stored) == sorted(before),
    "equal": all(torch.equal(stored[name], before[name]) for name in stored),
    "steps": result.global_step,
    "changed": sum(not torch.equal(before[n], p) for n, p in adapter().items()) / len(before),
    "adam": sorted({int(s["step"]) for s in trainer.optimizer.state.values()}),
    "losses": losses[-5:],
    "mvc": any(name.split(".")[0] == "mvc" for name in sys.modules),
}))
"""


@pytest.fixture(scope="module")
def resumed(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What PEFT and an ordinary Trainer make of current_model/."""
    script = tmp_path_factory.mktemp("resume") / "resume.py"
    script.write_text(TRAINER)
    before = state_bytes(story.at)
    words = [str(story.base), str(script.parent / "out"), SENTENCES[0]]
    said = story.plain(sys.executable, str(script), *words).split("SAID ")[1]
    assert state_bytes(story.at) == before
    return json.loads(said)


def test_peft_loads_it(resumed: dict[str, Any]) -> None:
    assert resumed["names"]
    assert resumed["equal"]


def test_the_trainer_goes_on_from_it(resumed: dict[str, Any]) -> None:
    """All its steps, on the stored moments, and every LoRA matrix moves."""
    assert resumed["steps"] == 5
    assert resumed["changed"] == 1
    assert resumed["adam"] == [3 * STEPS + 5]
    assert len(resumed["losses"]) == 5
    assert not resumed["mvc"]
