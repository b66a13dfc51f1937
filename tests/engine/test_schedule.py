"""The schedule has a lifetime (Fixed 4): a batch stands on it where a run without end would stand.

The reference is transformers' own scheduler, stepped once for every optimizer step.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from mvc.engine import schedule
from mvc.errors import ConfigError, ScheduleEnded
from mvc.settings import HORIZON_SCHEDULES, UNBOUNDED_SCHEDULES, TrainSettings

HORIZON = 24
ARGS: dict[str, dict[str, Any]] = {
    "warmup_stable_decay": {"num_decay_steps": 6},
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_with_restarts": {"num_cycles": 2},
    "polynomial": {"power": 2.0},
}
ALL = [*UNBOUNDED_SCHEDULES, *HORIZON_SCHEDULES]


def settings(name: str, **more: Any) -> TrainSettings:
    given = {
        "schedule": name,
        "learning_rate": 3e-4,
        "warmup_steps": 5,
        "horizon_steps": HORIZON if name in HORIZON_SCHEDULES else 0,
        "schedule_args": ARGS.get(name, {}),
        **more,
    }
    return TrainSettings(**given)


def optimizer(rate: float = 3e-4) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": d} for d in (0.1, 0)]
    return torch.optim.AdamW(groups, lr=rate)


def rates(made: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in made.param_groups]


def stepped(train: TrainSettings, num_steps: int) -> list[list[float]]:
    """The rates that each step of one run uses, and the one after its last step."""
    made = optimizer()
    scheduler = get_scheduler(
        train.schedule,
        made,
        num_warmup_steps=train.warmup_steps,
        num_training_steps=train.horizon_steps or None,
        scheduler_specific_kwargs=dict(train.schedule_args),
    )
    used = []
    for _ in range(num_steps):
        used.append(rates(made))
        made.step()
        scheduler.step()
    return [*used, rates(made)]


@pytest.mark.parametrize("name", ALL)
def test_built_at_any_position_it_has_the_bits_of_one_that_was_stepped_there(name: str) -> None:
    train = settings(name)
    wanted = stepped(train, HORIZON)
    for position in range(HORIZON):
        made = optimizer()
        scheduler = schedule.build(made, train, position, 4)
        assert rates(made) == scheduler.get_last_lr() == wanted[position], position
        made.step()
        scheduler.step()
        assert rates(made) == scheduler.get_last_lr() == wanted[position + 1], position


@pytest.mark.parametrize("name", ALL)
def test_its_state_is_that_of_one_that_was_stepped_there(name: str) -> None:
    train = settings(name)
    one = optimizer()
    ran = schedule.build(one, train, 0, 4)
    for _ in range(7):
        one.step()
        ran.step()
    assert schedule.build(optimizer(), train, 7, 4).state_dict() == ran.state_dict()


def test_warm_up_happens_once_on_a_line() -> None:
    train = settings("constant_with_warmup")
    first = [rates(made)[0] for made in (built(train, p) for p in range(12))]
    assert first[0] == 0
    assert all(a < b for a, b in pairwise(first[:6]))
    assert first[5:] == [3e-4] * 7


def built(train: TrainSettings, position: int) -> torch.optim.Optimizer:
    made = optimizer()
    schedule.build(made, train, position, 4)
    return made


def test_a_lifetime_schedule_goes_on_and_a_per_batch_one_begins_again() -> None:
    assert schedule.first_position(settings("linear"), lifetime_step=12, batch_step=3) == 15
    per_batch = settings("linear", schedule_scope="batch")
    assert schedule.first_position(per_batch, lifetime_step=12, batch_step=3) == 3
    assert schedule.horizon(settings("linear"), 4) == HORIZON
    assert schedule.horizon(per_batch, 4) == 4
    assert schedule.horizon(settings("constant"), 4) is None


def test_a_per_batch_schedule_ends_with_its_batch_and_never_before() -> None:
    train = settings("linear", schedule_scope="batch", warmup_steps=0, horizon_steps=0)
    schedule.check(train, lifetime_step=10**6, num_batch_steps=4)
    made = optimizer()
    scheduler = schedule.build(made, train, 0, 4)
    used = []
    for _ in range(4):
        used += rates(made)[:1]
        made.step()
        scheduler.step()
    assert used == pytest.approx([3e-4, 2.25e-4, 1.5e-4, 0.75e-4])
    assert rates(made) == [0, 0]


@pytest.mark.parametrize("name", HORIZON_SCHEDULES)
@pytest.mark.parametrize(("done", "left"), [(20, 4), (21, 3), (24, 0), (99, 0)])
def test_a_batch_must_fit_into_what_is_left(name: str, done: int, left: int) -> None:
    train = settings(name)
    if left:
        schedule.check(train, done, left)
    with pytest.raises(ScheduleEnded) as caught:
        schedule.check(train, done, left + 1)
    assert f"ends at lifetime step {HORIZON}: {left} steps are left" in caught.value.message
    assert f"this batch has {left + 1}" in caught.value.message
    assert f"horizon_steps in mvc.toml to at least {done + left + 1}" in caught.value.hint


@pytest.mark.parametrize("name", UNBOUNDED_SCHEDULES)
def test_a_schedule_without_an_end_never_ends(name: str) -> None:
    schedule.check(settings(name), 10**9, 10**6)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("linear", {"power": 2}),
        ("warmup_stable_decay", {}),
        ("cosine_with_min_lr", {}),
        ("inverse_sqrt", {"timescale_": 3}),
        ("polynomial", {"lr_end": 1.0}),
    ],
)
def test_wrong_schedule_args_are_a_config_error(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="schedule_args") as caught:
        schedule.build(optimizer(), settings(name, schedule_args=args), 0, 4)
    assert name in caught.value.message
    assert "mvc.toml" in caught.value.hint
