"""`mvc import`: what another program trained goes on in mvc, to the bit where it was whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvc.engine.state import load_torch
from mvc.ops import checkout, export, import_, init, log, show, snapshot, train
from mvc.store import config
from mvc.store.layout import Layout
from tests.ops import old_script
from tests.ops.conftest import Heard, adam_step, git, sound, state_bytes, train_one, write_batch
from tests.ops.old_script import NOON, Script, contents
from tests.ops.test_exact import equal
from tests.processes import in_process

ADAPTER = "adapter_model.safetensors"
Import = Callable[..., Layout]


@pytest.fixture
def take(tiny_base: Path, tmp_path: Path) -> Import:
    """Imports a folder: `take(path, "train.seed=3", progress=heard)`."""

    def take(path: Path, *sets: str, name: str = "model", **options: Any) -> Layout:
        found = [*old_script.SETS, *sets]
        options = {"now": NOON, **options}
        made = import_.import_(path, tmp_path / name, str(tiny_base), sets=found, **options)
        return Layout(made.root)

    return take


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four data files of eight rows."""
    folder = tmp_path_factory.mktemp("days")
    return [write_batch(folder / f"day-{i}.jsonl", 8 * i) for i in range(4)]


def tokens(base: Path, path: Path) -> list[dict[str, Any]]:
    from transformers import AutoTokenizer

    return old_script.rows(AutoTokenizer.from_pretrained(base), path)


@pytest.fixture(scope="module")
def _old(tiny_base: Path, days: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "bot"

    def run() -> None:
        script = Script(tiny_base, folder, lora={"lora_dropout": 0.0})
        for day, path in zip(("2026-11-20", "2026-11-21", ""), days, strict=False):
            script.batch(tokens(tiny_base, path))
            if day:
                script.night(day)
        old_script.at(script.current, NOON)

    in_process(run)
    return folder


@pytest.fixture
def old(_old: Path, tmp_path: Path) -> Path:
    """The old script's folder after three batches and two nights."""
    shutil.copytree(_old, tmp_path / "bot")
    return tmp_path / "bot"


def test_an_old_folder_becomes_a_line_with_its_days(old: Path, take: Import) -> None:
    before = contents(old)
    heard = Heard()
    at = take(old, progress=heard)
    assert contents(old) == before, "the originals are only read"

    newest, second, first = log.log(at)
    assert [c.message for c in (first, second, newest)] == [
        "Import snapshot 2026-11-20",
        "Import snapshot 2026-11-21",
        "Import current_model",
    ]
    assert [c.kind for c in (first, second, newest)] == ["import"] * 3
    assert (first.parents, second.parents) == ((), (first.commit,))
    assert first.time == datetime(2026, 11, 20, 3, 0, 7, tzinfo=UTC)
    assert newest.time == NOON
    assert [s.commit.commit for s in snapshot.snapshots(at)] == [second.commit, first.commit]
    assert [(c.steps, c.lifetime_step) for c in (first, second, newest)] == [
        (4, 4),
        (4, 8),
        (4, 12),
    ]
    assert git(at, "status", "--porcelain") == ""
    assert sound(at)
    assert any("training_args.bin" in note for note in heard.notes)
    assert not (at.state / "training_args.bin").exists()


def test_the_losses_are_those_of_the_old_log(old: Path, take: Import) -> None:
    at = take(old)
    told = json.loads((old / "current_model" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in told if "loss" in entry]
    assert len(losses) == 12, "the old recipe appends to its log"
    for number, commit in enumerate(reversed(log.log(at))):
        mine = losses[4 * number : 4 * number + 4]
        assert commit.loss
        assert (commit.loss.first, commit.loss.last) == (mine[0], mine[-1])
        curve = show.show(at, commit.commit).curve
        assert [point.loss for point in curve] == mine
        assert [point.step for point in curve] == [1, 2, 3, 4]
        assert [p.lifetime_step for p in curve] == [4 * number + i for i in (1, 2, 3, 4)]


def test_a_day_comes_back_with_its_very_values(old: Path, take: Import) -> None:
    at = take(old)
    for day in ("2026-11-20", "2026-11-21"):
        checkout.checkout(at, day)
        pin = old / "snapshots" / day
        assert equal(load_file(at.state / ADAPTER), load_file(pin / ADAPTER))
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            assert equal(load_torch(at.state / name), load_torch(pin / name))
        told = json.loads((at.state / "trainer_state.json").read_text())
        assert (told["global_step"], len(told["log_history"])) == (0, 4)


@pytest.mark.parametrize("day", ["", "2026-11-20"])
def test_the_next_batch_is_the_one_that_the_old_script_would_have_trained(
    day: str, old: Path, take: Import, days: list[Path], tiny_base: Path
) -> None:
    at = take(old, "lora.dropout=0.0")
    if day:
        checkout.checkout(at, day)
        shutil.rmtree(old / "current_model")
        shutil.copytree(old / "snapshots" / day, old / "current_model")
    dump = old.parent / "rows.jsonl"
    train.dry_run(at, [days[3]], dump=dump)
    rows = [json.loads(line) for line in dump.read_text().splitlines()]
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
    in_process(lambda: Script(tiny_base, old).batch(rows))

    done = train_one(at, days[3])
    assert done.commit.batch == 1
    assert done.commit.lifetime_step == (8 if day else 16)
    theirs = old / "current_model"
    assert equal(load_file(at.state / ADAPTER), load_file(theirs / ADAPTER))
    mine, told = load_torch(at.state / "optimizer.pt"), load_torch(theirs / "optimizer.pt")
    assert equal(mine["state"], told["state"])
    assert [g["lr"] for g in mine["param_groups"]] == [g["lr"] for g in told["param_groups"]]


@pytest.fixture(scope="module")
def _output(tiny_base: Path, days: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Trainer's output over days 0 to 2, and then day 3: checkpoints 8, 10, 12 and 16."""
    folder = tmp_path_factory.mktemp("output") / "run"
    first = [row for path in days[:3] for row in tokens(tiny_base, path)]

    def run() -> None:
        data = [*first, *json.loads((folder.parent / "next.json").read_text())]
        old_script.fit(tiny_base, None, data, folder, save_steps=2, seed=42)

    sets = [*old_script.SETS, "train.seed=42"]
    at = Layout(init.init(folder.parent / "probe", str(tiny_base), sets=sets).root)
    train.dry_run(at, [days[3]], dump=folder.parent / "rows.jsonl")
    lines = (folder.parent / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
    (folder.parent / "next.json").write_text(json.dumps(rows))
    in_process(run)
    return folder


@pytest.fixture
def output(_output: Path, tmp_path: Path) -> Path:
    """The output up to checkpoint-12, as it was then; `_output` has what came of it."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (8, 10, 12):
        shutil.copytree(_output / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def test_checkpoints_become_commits_in_the_order_of_their_numbers(
    output: Path, take: Import, days: list[Path], _output: Path
) -> None:
    """And the next batch, with dropout, is what the uninterrupted Trainer made of it."""
    at = take(output, now=None)
    commits = list(reversed(log.log(at)))
    assert [c.message for c in commits] == [f"Import checkpoint-{n}" for n in (8, 10, 12)]
    assert [(c.steps, c.lifetime_step) for c in commits] == [(8, 8), (2, 10), (2, 12)]
    assert [len(show.show(at, c.commit).curve) for c in commits] == [8, 2, 2]

    done = train_one(at, days[3])
    assert done.commit.lifetime_step == 16
    theirs = _output / "checkpoint-16"
    assert equal(load_file(at.state / ADAPTER), load_file(theirs / ADAPTER))
    assert equal(
        load_torch(at.state / "optimizer.pt")["state"], load_torch(theirs / "optimizer.pt")["state"]
    )
    assert equal(load_torch(at.state / "rng_state.pth"), load_torch(theirs / "rng_state.pth"))


def test_an_adapter_that_a_trainer_saved_beside_its_checkpoints_is_not_a_commit_of_its_own(
    output: Path, take: Import
) -> None:
    for name in (ADAPTER, "adapter_config.json"):
        shutil.copy(output / "checkpoint-12" / name, output)
    heard = Heard()
    at = take(output, progress=heard)
    assert log.log(at)[0].message == "Import checkpoint-12"
    assert "the adapter beside the checkpoints is that of checkpoint-12" in heard.notes


def test_the_settings_are_those_of_the_last_state(output: Path, take: Import) -> None:
    heard = Heard()
    at = take(output, progress=heard)
    told = config.load(at)
    assert (told.lora.r, told.lora.alpha, told.lora.dropout) == (4, 8, 0.1)
    assert told.lora.target_modules == ["q_proj", "v_proj"]
    assert (told.train.learning_rate, told.train.schedule) == (0.01, "constant")
    assert (told.train.warmup_steps, told.train.optimizer) == (0, "adamw_torch_fused")
    assert "the rate is 0.01 from here on" in "".join(heard.notes)


def test_a_bare_adapter_begins_with_fresh_moments_and_says_so(
    output: Path, take: Import, days: list[Path], tmp_path: Path
) -> None:
    bare = tmp_path / "adapter"
    bare.mkdir()
    for name in (ADAPTER, "adapter_config.json"):
        shutil.copy(output / "checkpoint-12" / name, bare)
    tensors = {n: t.to(torch.bfloat16) for n, t in load_file(bare / ADAPTER).items()}
    save_file(tensors, bare / ADAPTER, metadata={"format": "pt"})
    heard = Heard()
    at = take(bare, "train.learning_rate=1e-3", "train.warmup_steps=2", progress=heard)
    (first,) = log.log(at)
    assert (first.message, first.lifetime_step, first.loss) == ("Import adapter", 0, None)
    assert first.warnings == ("it has no optimizer.pt: moments and lifetime step begin anew here",)
    assert any("float32" in note for note in heard.notes)
    assert {t.dtype for t in load_file(at.state / ADAPTER).values()} == {torch.float32}
    assert equal(load_file(at.state / ADAPTER), {n: t.float() for n, t in tensors.items()})
    assert (at.state / "tokenizer.json").exists(), "the base's, for the adapter has none"
    done = train_one(at, days[0])
    assert (done.commit.lifetime_step, adam_step(at)) == (4, 4)


def test_a_state_without_its_random_state_goes_on_with_its_moments(
    output: Path, take: Import, days: list[Path]
) -> None:
    (output / "checkpoint-12" / "rng_state.pth").unlink()
    (output / "checkpoint-12" / "scheduler.pt").unlink()
    at = take(output)
    newest = log.log(at)[0]
    assert newest.warnings == (
        "it has no rng_state.pth: the random state was made from train.seed",
    )
    assert sound(at)
    assert train_one(at, days[0]).commit.lifetime_step == 16


def test_a_schedule_that_had_run_out_is_not_gone_on_with(
    tiny_base: Path, days: list[Path], take: Import, tmp_path: Path
) -> None:
    script = Script(tiny_base, tmp_path / "bot", lr_scheduler_type="linear")
    in_process(lambda: script.batch(tokens(tiny_base, days[0])))
    assert load_torch(script.current / "scheduler.pt")["_last_lr"][0] == 0
    heard = Heard()
    at = take(tmp_path / "bot", progress=heard)
    assert "the last schedule had run out (rate 0): it is not gone on with" in heard.notes
    done = train_one(at, days[1])
    assert done.commit.learning_rate
    assert (done.commit.learning_rate.first, done.commit.learning_rate.last) == (0.01, 0.01)


def test_a_present_state_that_is_the_last_snapshot_is_no_commit_of_its_own(
    old: Path, take: Import
) -> None:
    shutil.rmtree(old / "current_model")
    shutil.copytree(old / "snapshots" / "2026-11-21", old / "current_model")
    (old / "snapshots" / "notes").mkdir()
    heard = Heard()
    at = take(old, progress=heard)
    newest = log.log(at)[0]
    assert (newest.message, newest.snapshots) == ("Import snapshot 2026-11-21", ("2026-11-21",))
    assert newest.is_head
    assert "current_model is snapshot 2026-11-21: nothing was trained since" in heard.notes
    assert "snapshots/notes is left out: its name is no day" in heard.notes


def test_a_snapshot_whose_files_lost_their_day_is_dated_to_its_night(
    old: Path, take: Import
) -> None:
    old_script.at(old / "snapshots" / "2026-11-20", NOON)
    at = take(old, "snapshot.zone=Europe/Berlin", name="berlin")
    first = log.log(at)[-1]
    assert first.time == datetime(2026, 11, 20, 2, tzinfo=UTC)
    checkout.checkout(at, "2026-11-20")
    assert state_bytes(at)


def test_what_was_exported_comes_in_again_and_goes_on_alike(
    trained: Layout, take: Import, tmp_path: Path
) -> None:
    """The way out and in again loses no bit: dropout, moments and random state go on."""
    out = export.export(trained, "HEAD", tmp_path / "out")
    at = take(out.folder, name="again")
    assert log.log(at)[0].lifetime_step == 12
    path = write_batch(tmp_path / "next.jsonl", 40)
    for each in (trained, at):
        train_one(each, path)
    mine, theirs = state_bytes(at), state_bytes(trained)
    for name in (ADAPTER, "optimizer.pt", "optimizer_parameters.json", "rng_state.pth"):
        assert mine[name] == theirs[name], name
