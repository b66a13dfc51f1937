"""The learning-rate schedule of a line.

Owns where on the schedule a batch begins, what rate each of its steps will use, and the refusal
of a schedule that has run out. The schedules themselves are transformers' own.

A naive resume restores the last batch's finished scheduler: linear, warmup_stable_decay and
cosine_with_restarts then give a rate of 0 for ever, and cosine climbs back to .93 of its peak
(FACTS.md). So the schedule is built on the lifetime horizon and set to the lifetime step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvc.errors import ConfigError, ScheduleEnded
from mvc.settings import HORIZON_SCHEDULES, TrainSettings

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LambdaLR


def first_position(train: TrainSettings, lifetime_step: int, batch_step: int) -> int:
    """The schedule's position at a batch's step: lifetime steps, or the batch's own."""
    return batch_step if train.schedule_scope == "batch" else lifetime_step + batch_step


def horizon(train: TrainSettings, num_batch_steps: int) -> int | None:
    """Length of the schedule in optimizer steps; None for one that never ends."""
    if train.schedule not in HORIZON_SCHEDULES:
        return None
    return num_batch_steps if train.schedule_scope == "batch" else train.horizon_steps


def check(train: TrainSettings, lifetime_step: int, num_batch_steps: int) -> None:
    """Refuse a batch that the schedule has no steps left for.

    Args:
        train: the settings of this batch.
        lifetime_step: steps done on the line before this batch.
        num_batch_steps: steps that this batch will run.

    Raises:
        ConfigError: the batch is the first step of a warm-up and nothing more.
        ScheduleEnded: the horizon lies before the batch's last step.
    """
    position = first_position(train, lifetime_step, 0)
    if (
        train.schedule != "constant"
        and train.warmup_steps
        and (position, num_batch_steps) == (0, 1)
    ):
        raise ConfigError(
            "a warm-up begins at rate 0, and this batch has one step: it would learn nothing",
            "give the batch more rows, or set train.warmup_steps = 0 in mvc.toml",
        )
    length = horizon(train, num_batch_steps)
    if length is None or train.schedule_scope == "batch":
        return
    left = max(length - lifetime_step, 0)
    if num_batch_steps > left:
        raise ScheduleEnded(
            f"the {train.schedule} schedule ends at lifetime step {length}: {left} steps are left "
            f"and this batch has {num_batch_steps}",
            f"raise train.horizon_steps in mvc.toml to at least {lifetime_step + num_batch_steps}, "
            'or set train.schedule = "constant_with_warmup", then run `mvc train` again',
        )


def build(
    optimizer: torch.optim.Optimizer, train: TrainSettings, position: int, num_batch_steps: int
) -> LambdaLR:
    """The schedule, standing at `position`, with the rates of mvc.toml.

    Every schedule offered is a LambdaLR, whose rate is `learning_rate * factor(position)`: set
    to a position it gives the same bits as one that was stepped there
    (`torch.optim.lr_scheduler.LambdaLR.get_lr`).

    Raises:
        ConfigError: `schedule_args` does not fit the schedule.
    """
    from transformers import get_scheduler

    try:
        if train.schedule_args and train.schedule in ("constant", "constant_with_warmup"):
            raise TypeError("it takes none")  # transformers drops them without a word
        scheduler: LambdaLR = get_scheduler(
            train.schedule,
            optimizer=optimizer,
            num_warmup_steps=train.warmup_steps,
            num_training_steps=horizon(train, num_batch_steps),
            scheduler_specific_kwargs=dict(train.schedule_args),
        )
        # From its first position on: the warm-up looks at no argument.
        for at in (position, train.warmup_steps + 1):
            scheduler.lr_lambdas[0](at)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"the {train.schedule} schedule does not take train.schedule_args = "
            f"{dict(train.schedule_args)}: {error}",
            "correct train.schedule_args in mvc.toml",
        ) from error
    if position:
        rates = [
            base * factor(position)
            for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        scheduler.last_epoch = position
        scheduler._step_count = position + 1
        scheduler._last_lr = rates
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    return scheduler
