"""Loss histories of other programs: where they begin again, go on, and what they must not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mvc.engine import foreign_log
from mvc.engine.foreign_log import Log
from mvc.errors import StateError


def entry(step: Any, loss: Any = 2.0, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": loss, "learning_rate": 1e-3, "grad_norm": 0.5} | more


def read(tmp_path: Path, *entries: Any, **values: Any) -> Log:
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": entries, **values}))
    return foreign_log.read(path)


def positions(log: Log) -> list[int]:
    return [point.position for point in log.points]


def test_a_run_that_appended_to_the_log_counts_on(tmp_path: Path) -> None:
    log = read(tmp_path, entry(2), entry(4), entry(2), entry(4), entry(2), max_steps=5)
    assert positions(log) == [2, 4, 6, 8, 10]
    assert log.num_steps == 8 + 5


def test_the_counter_tells_the_steps_after_the_last_logged_one(tmp_path: Path) -> None:
    assert read(tmp_path, entry(10), global_step=13, max_steps=40).num_steps == 13
    assert read(tmp_path, entry(10), global_step=0, max_steps=13).num_steps == 13
    assert read(tmp_path, global_step=7).num_steps == 7
    assert foreign_log.read(tmp_path / "nowhere.json") == Log()


def test_what_is_new_is_what_the_earlier_log_lacks(tmp_path: Path) -> None:
    first = read(tmp_path, entry(1, 3.0), entry(2, 2.5), global_step=2)
    second = read(tmp_path, entry(1, 3.0), entry(2, 2.5), entry(3, 2.0), global_step=4)
    new = second.since(first)
    assert (positions(new), new.num_steps) == ([3], 2)
    other = read(tmp_path, entry(1, 9.0), entry(2, 8.0), global_step=2)
    assert other.since(first) == other
    assert first.since(Log()) == first


def test_a_curve_counts_the_steps_of_its_commit_and_of_the_line(tmp_path: Path) -> None:
    log = read(tmp_path, entry(2), entry(4), global_step=5)
    told = [(p.step, p.lifetime_step) for p in log.curve(log.num_steps, 5, 105)]
    assert told == [(2, 102), (4, 104)]
    assert [p.step for p in log.curve(log.num_steps, 2, 105)] == [1, 1]


def test_what_is_no_loss_is_left_out(tmp_path: Path) -> None:
    huge = 10**400
    log = read(
        tmp_path,
        {"step": 1, "eval_loss": 1.0},
        {"step": 4, "train_loss": 1.0, "train_runtime": 3.0},
        *(entry(step) for step in ("1", True, -1, 1 << 60, None, 1.5)),
        entry(1, "2.0"),
        entry(2, float("nan")),
        entry(3, huge),
        entry(4, 2.0, grad_norm=float("inf")),
        "no entry",
    )
    assert [(p.position, p.loss, p.grad_norm) for p in log.points] == [(4, 2.0, None)]
    assert log.num_broken == 2


@pytest.mark.parametrize("text", ["", "[1, 2]", "[" * 100_000, '{"log_history": 3}', "null"])
def test_what_is_no_log_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(text)
    with pytest.raises(StateError, match=r"trainer_state\.json cannot be read"):
        foreign_log.read(path)
