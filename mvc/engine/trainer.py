"""transformers' Trainer, with the four places where a batch differs from a run of its own.

Owns the subclass and its arguments. Schedule and moments come from the line, each step is
reported to the batch, the batch's own checkpoints replace the Trainer's, and nothing is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mvc.engine import base as bases
from mvc.engine import fsdp as sharding
from mvc.engine import rng, rows, schedule, state
from mvc.engine.session import Warm
from mvc.errors import ConfigError, MissingExtra, TrainingFailed
from mvc.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from mvc.engine.batch import Batch


class Beginning(TrainerCallback):  # type: ignore[misc]
    """Sets the random state before the first step, after the DataLoader has drawn its seed.

    And holds the first optimizer step until the state before it is copied for its writer.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch: Batch | None = batch
        self.before = batch.warm.cloned if batch.warm else None

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Set the random state, once."""
        if self.batch:
            self.batch.restore_rng()
            self.batch = None

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the copy of the state before, once."""
        if self.before:
            self.before()
            self.before = None


class BatchTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that goes on from a state instead of beginning.

    The daemon's goes on from batch to batch (`Warm`). `adapter` holds the model's own parameters
    by PEFT's names; under FSDP it is None, which puts others in their place for each pass.
    """

    batch: Batch
    parameters: dict[str, Any]
    adapter: dict[str, torch.Tensor] | None = None

    def create_accelerator_and_postprocess(self) -> None:
        """Build the accelerator, with FSDP wherever it is asked for."""
        super().create_accelerator_and_postprocess()
        sharding.enable(self)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Build the optimizer that mvc.toml names.

        Raises:
            ConfigError: it does not take `optimizer_args`.
            MissingExtra: it lies in a package that is not installed.
        """
        how = self.batch.train
        try:
            optimizer = super().create_optimizer(*args, **kwargs)
        except ImportError as error:
            raise MissingExtra(
                f'train.optimizer = "{how.optimizer}" needs a package that is not installed',
                "install it, or choose another train.optimizer in mvc.toml",
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise _wrong_arguments(how, str(error)) from error
        if optimizer is not None and type(optimizer).__module__.startswith("torch.optim"):
            # transformers passes on what it knows and drops the rest without a word.
            for pair in filter(None, how.optimizer_args.replace(" ", "").split(",")):
                name, _, value = pair.partition("=")
                if not _is_set(optimizer.defaults.get(name), value):
                    raise _wrong_arguments(how, f"it does not take {pair}")
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Build the line's schedule at the batch's place, then load the moments.

        In this order: a scheduler's constructor resets the rate of the optimizer's groups.
        """
        batch = self.batch
        if note := sharding.check(self, batch.job.fsdp is not None):
            batch.progress.note(note)
        position = schedule.first_position(batch.train, batch.job.lifetime_step, batch.done)
        self.lr_scheduler = schedule.build(self.optimizer, batch.train, position, batch.num_steps)
        self._created_lr_scheduler = True
        if not batch.warm:
            if batch.lifetime_step > 0:
                state.load_optimizer(batch.source, self.model, self.optimizer)
            self.parameters = state.optimizer_parameters(self.model, self.optimizer)
            if not batch.job.fsdp:
                self.adapter = state.adapter_parameters(self.model)
        self.first_moments = state.adam_steps(self.optimizer)
        return self.lr_scheduler

    def warm(self) -> Warm:
        """What the next batch of this process goes on from."""
        assert self.batch.held is not None
        return Warm(self, rng.capture(1), self.batch.carried(), self.batch.held[0].join)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called after each optimizer step (logging_steps is 1) with that step's figures."""
        if "loss" in logs:
            self.batch.record(self, logs)

    def check_moments(self, num_steps: int) -> None:
        """Refuse an optimizer whose own step count did not go on by the steps that were run.

        Resetting AdamW's count with warm moments cuts the rate to a third (FACTS.md).

        Raises:
            TrainingFailed: the counts are not the earlier ones plus `num_steps`, or the set of
                trainable parameters changed.
        """
        before, after = self.first_moments or (0,), state.adam_steps(self.optimizer)
        if after and after != tuple(count + num_steps for count in before):
            raise TrainingFailed(
                f"the optimizer counts {after} steps after {num_steps} more than {before}",
                "nothing was recorded; please report this with the output of `mvc show`",
            )
        if state.optimizer_parameters(self.model, self.optimizer) != self.parameters:
            raise TrainingFailed(
                "the set of trainable parameters changed during the batch",
                "nothing was recorded; please report this with the output of `mvc show`",
            )


def arguments(
    train: TrainSettings, output: Path, fsdp: dict[str, Any] | None = None
) -> TrainingArguments:
    """The Trainer's arguments for [train] of mvc.toml, with accelerate's configuration of FSDP.

    Raises:
        ConfigError: transformers refuses one of them.
    """
    import torch

    cuda = torch.cuda.is_available()
    try:
        found = TrainingArguments(
            output_dir=str(output),
            per_device_train_batch_size=train.micro_batch_size,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            num_train_epochs=1,
            learning_rate=train.learning_rate,
            optim=train.optimizer,
            optim_args=train.optimizer_args or None,
            weight_decay=train.weight_decay,
            max_grad_norm=train.max_grad_norm,
            lr_scheduler_type="constant",  # create_scheduler is ours
            train_sampling_strategy="sequential",
            seed=train.seed,
            bf16=bases.precision_dtype(train.precision) == "bfloat16",
            activation_checkpointing=train.gradient_checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False},
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,  # it would replace a NaN loss by an average
            save_strategy="no",
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=not cuda,
            dataloader_pin_memory=cuda,
            fsdp=bool(fsdp),
            fsdp_config=dict(fsdp) if fsdp else None,
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"transformers refuses the settings of [train]: {error}",
            "correct [train] in mvc.toml (optimizer, optimizer_args, precision)",
        ) from error
    # One process on a machine with several GPUs: the Trainer would take them all (DataParallel)
    # and make another global batch of it. Several GPUs are `--nproc`'s.
    found._n_gpu = min(found.n_gpu, 1)
    return found


def _is_set(found: Any, value: str) -> bool:
    if isinstance(found, bool):
        return found == (value.lower() in ("true", "1", "yes"))
    try:
        return float(found) == float(value)
    except (TypeError, ValueError):
        return False


def _wrong_arguments(train: TrainSettings, why: str) -> ConfigError:
    return ConfigError(
        f'the optimizer {train.optimizer} refuses train.optimizer_args = "{train.optimizer_args}": '
        f"{why}",
        'correct it in mvc.toml; it is a list such as "momentum=0.9,nesterov=true"',
    )


def optimizer(model: PeftModel, train: TrainSettings, output: Path) -> torch.optim.Optimizer:
    """The optimizer that any Trainer makes for `model`: its groups, in its order."""
    found: torch.optim.Optimizer = Trainer(
        model=model, args=arguments(train, output)
    ).create_optimizer()
    return found


def build(batch: Batch, model: PeftModel, collator: Any) -> BatchTrainer:
    """The Trainer for what is left of `batch`, with `model` carrying the adapter.

    The one before goes on where the batch is warm: on 28 layers (392 LoRA tensors) another one
    took 0.2 s of Python, in which a GPU waits.

    Raises:
        ConfigError: transformers knows no such optimizer.
    """
    output = Path(batch.job.run) / "trainer"
    if batch.warm:
        trainer = batch.warm.trainer
        trainer.args.output_dir = str(output)
        trainer.remove_callback(Beginning)
    else:
        trainer = BatchTrainer(model=model, args=arguments(batch.train, output, batch.job.fsdp))
        for printing in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printing)
    trainer.batch = batch
    trainer.train_dataset = rows.dataset(batch.rows, batch.order, batch.done * batch.rows_per_step)
    trainer.data_collator = collator
    trainer.add_callback(Beginning(batch))
    return trainer
