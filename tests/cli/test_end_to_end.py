"""Sessions through the command line, on a real model: what is printed, answered and left behind.

The transcript is held as a snapshot. Hashes, times, durations, sizes and losses are masked, for
they are this run's and this machine's; tests/ops holds the losses to the bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mvc.engine.trainer import BatchTrainer
from tests.cli.unchanged import Model, Told, call, copy_of, look, make_model
from tests.ops.conftest import SETS, write_batch
from tests.tiny import make_base

Mvc = Callable[..., Told]

_MASKS = (
    (r"(?s)(?<=\nEnvironment\n).*?(?=\n\n)", lambda m: re.sub(r"(?m)(  \w+).*$", r"\1  ...", m[0])),
    (r"\b[0-9a-f]{12,64}(\.dir)?…?", "HASH"),
    (r"\b[0-9a-f]{10}\b", "HASH"),
    (r"[▁▂▃▄▅▆▇█]{2,}", "CURVE"),
    (r"(just now|\d+ \w+ ago)", "AGO"),
    (r"(\w{3} )?\d{4}-\d\d-\d\d \d\d:\d\d", "TIME"),
    (r"\d{4}-\d\d-\d\d", "DAY"),
    (r"[+-]\d+\.\d+%?", "CHANGE"),
    (r"\b[\d,.]+ [kMG]?B\b", "SIZE"),
    (r"\b\d+ (tok/s|tokens/s)", r"N \1"),
    (r"\b(\d+h)?(\d+m)?[\d.]+s\b", "SECONDS"),
    (r"\b[1-9]\.\d{2,4}\b", "LOSS"),
    (r" {2,}", "  "),  # columns are as wide as what was masked
    (r"(?m) +$", ""),
)


def masked(text: str, folder: Path) -> str:
    """`text` without what another run or machine would say otherwise."""
    text = text.replace(str(folder), "TMP")
    for pattern, replacement in _MASKS:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def model(trained: Model, tmp_path: Path) -> Model:
    return copy_of(trained, tmp_path)


@pytest.fixture
def mvc(model: Model, capfd: pytest.CaptureFixture[str]) -> Mvc:
    def mvc(*args: object) -> Told:
        return call(capfd, "-C", model.root, *args)

    return mvc


def test_a_session_from_init_to_fsck(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    make_base(tmp_path / "base")
    for number in range(4):
        write_batch(tmp_path / f"day-{number}.jsonl", 8 * number)
    transcript = []

    def mvc(*args: str) -> str:
        folder = tmp_path / "model"
        told = call(capfd, "-C", folder if folder.exists() else tmp_path, *args)
        assert told.status == 0, told.err
        err = "".join(f"stderr: {line}\n" for line in told.err.splitlines())
        transcript.append(f"$ mvc {' '.join(args)}\n{told.out}{err}")
        return told.out

    mvc("init", "model", "--base", "base", *(flag for each in SETS for flag in ("--set", each)))
    mvc("train", "../day-0.jsonl", "-m", "the first night")
    mvc("train", "../day-1.jsonl", "../day-0.jsonl")
    mvc("status")
    mvc("log")
    mvc("show", "@1")
    mvc("snapshot", "-m", "a good day")
    mvc("snapshots")
    mvc("train", "../day-2.jsonl")
    (pin,) = json.loads(call(capfd, "-C", tmp_path / "model", "snapshots", "--json").out)
    mvc("checkout", pin["day"])
    mvc("status")
    mvc("train", "../day-3.jsonl")
    mvc("checkout", "main")
    mvc("rollback", "@1", "-m", "day 2 was broken")
    mvc("log")
    mvc("log", f"from-{pin['day']}", "-n", "1")
    mvc("fsck")
    assert masked("\n".join(transcript) + "\n\n", tmp_path) == snapshot


# DESIGN.md, section 5: what scripts may rely on.
LOG_KEYS = {
    *("commit", "parents", "kind", "batch", "time", "message", "data", "steps", "lifetime_step"),
    *("loss", "learning_rate", "seconds", "branches", "snapshots", "warnings", "gate"),
}


def test_the_json_answers_have_the_promised_keys(mvc: Mvc) -> None:
    def answer(*args: str) -> Any:
        told = mvc(*args, "--json")
        assert told.status == 0, told.err
        return json.loads(told.out)

    log = answer("log")
    assert [(entry["kind"], entry["batch"]) for entry in log] == [("batch", 1), ("init", 0)]
    for entry in log:
        assert set(entry) >= LOG_KEYS
        assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}[+-]\d\d:\d\d", entry["time"])
    first = log[0]
    assert set(first["data"]) == {"name", "md5", "rows", "tokens"}
    assert set(first["loss"]) == {"first", "last", "mean"}
    assert set(first["learning_rate"]) == {"first", "last"}
    assert first["seconds"] > 0
    assert first["branches"] == ["main"]
    show = answer("show")
    assert {key: show[key] for key in LOG_KEYS} == {key: first[key] for key in LOG_KEYS}
    assert set(show) >= {"curve", "settings", "environment"}
    assert [set(p) >= {"step", "loss", "learning_rate", "grad_norm"} for p in show["curve"]] == (
        [True] * first["steps"]
    )
    assert answer("status")["state"] == "clean"
    assert answer("rollback", "@0")["commit"]["rollback_to"] == log[1]["commit"]
    assert answer("checkout", "@1")["branch"] is None
    assert answer("snapshot")["commit"]["commit"] == first["commit"]
    assert [pin["tag"] for pin in answer("snapshots")] == [answer("snapshots")[0]["tag"]]
    assert answer("fsck")["findings"] == []


def test_a_file_is_trained_once_unless_asked_again(model: Model, mvc: Mvc) -> None:
    (batch,) = json.loads(mvc("train", model.good, "--json").out)
    assert batch["already"] is False
    before = look(model.root)
    renamed = model.root.parent / "renamed.jsonl"
    renamed.write_bytes(model.good.read_bytes())
    for path in (model.good, renamed):
        told = mvc("train", path)
        assert told.status == 0
        assert f"is in this line already: @2 {batch['commit'][:10]}" in told.out
        assert "--again" in told.out
        assert "Loss" not in told.err
        (answer,) = json.loads(mvc("train", path, "--json").out)
        assert (answer["already"], answer["commit"]) == (True, batch["commit"])
    assert look(model.root) == before
    (again,) = json.loads(mvc("train", model.good, "--again", "--json").out)
    assert (again["already"], again["batch"]) == (False, 3)
    assert again["parents"] == [batch["commit"]]
    assert again["data"]["md5"] == batch["data"]["md5"]


def test_without_a_terminal_each_logging_step_is_one_plain_line(model: Model, mvc: Mvc) -> None:
    config = model.root / "mvc.toml"
    config.write_text(config.read_text().replace("logging_steps = 1", "logging_steps = 2"))
    told = mvc("train", model.good)
    steps = [line for line in told.err.splitlines() if "Loss" in line]
    assert [line.split()[1] for line in steps] == ["2/4", "4/4"]
    assert "\x1b" not in told.err + told.out
    assert "\r" not in told.err + told.out


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_dry_run_dumps_what_is_then_trained_and_changes_nothing(
    packing: str, model: Model, mvc: Mvc, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = model.root / "mvc.toml"
    text = config.read_text().replace("packing = false", f"packing = {packing}")
    config.write_text(text.replace("passes = 1", "passes = 2"))
    before = look(model.root)
    dump = model.root.parent / "rows.jsonl"
    told = mvc("train", model.good, "--dry-run", "--dump", dump, "--json")
    (plan,) = json.loads(told.out)
    rows = [json.loads(line) for line in dump.read_text().splitlines()]
    assert told.status == 0
    assert look(model.root) == before

    seen: list[list[int]] = []
    step = BatchTrainer.training_step

    def spy(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.extend(row.tolist() for row in inputs["input_ids"])
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(BatchTrainer, "training_step", spy)
    (batch,) = json.loads(mvc("train", model.good, "--json").out)
    assert plan["steps"] == batch["steps"]
    assert len(seen) == len(rows)
    for trained, row in zip(seen, rows, strict=True):
        length = len(row["input_ids"])
        assert trained[:length] == row["input_ids"]
        assert len(set(trained[length:])) <= 1  # padding
    assert batch["data"]["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert ("seq_lengths" in rows[0]) == (packing == "true")
