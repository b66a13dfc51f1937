"""A state that another program left: a Trainer's checkpoint, an old script's folder, an adapter.

Owns looking at one without trusting it, and what it says of how it was trained. Nothing is
unpickled with anything but `weights_only=True`, training_args.bin is neither read nor kept, and no
file is followed out of the folder that the user named. Making a state of ours of it is `adopt`'s.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mvc.engine import code, foreign_log, state, untrusted
from mvc.engine.foreign_log import Log
from mvc.errors import StateError

if TYPE_CHECKING:
    from peft import LoraConfig

_TOKENIZER = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.jinja", "spiece.model", "sentencepiece*.model"),
)
_RNG = re.compile(r"rng_state(_[0-9]+)?\.pth")
_LARGEST_CONFIG = 1 << 20
# How an adapter began its life changes nothing any more, unless the base was changed with it.
_SPENT = {"init_lora_weights": (True, False, "gaussian", "orthogonal"), "auto_mapping": None}
_SHAPE = ("r", "lora_alpha", "modules_to_save", "use_dora", "use_rslora", "target_modules")
_PATTERNS = ("rank_pattern", "alpha_pattern", "layers_to_transform", "exclude_modules")
_LEFT = "nothing was made; take it out of a copy of the folder, or import another one"
_DEFAULTS = {"betas": (0.9, 0.999), "eps": 1e-8}

Stamp = tuple[tuple[str, int, int], ...]


class Moments(msgspec.Struct, frozen=True):
    """What optimizer.pt says: the class that wrote it, its steps, and its groups' own values.

    `num_steps` is the largest count that it keeps for a parameter; 0 where it keeps none.
    """

    optimizer: str
    num_steps: int
    group: Mapping[str, Any]


class Found(msgspec.Struct, frozen=True):
    """A state in `folder`, looked at but not yet held against a model.

    `moments` is None where training cannot go on from them; `rng` are the files of random state,
    one a process; `stamp` are name, size and time of every file that is used, `ignored` the names
    of the others; `warnings` is what the state lacks, `rested` whether its schedule had run out.
    """

    folder: Path
    lora: LoraConfig
    header: Mapping[str, tuple[list[int], str]]
    moments: Moments | None
    log: Log
    rng: tuple[str, ...]
    tokenizer: tuple[str, ...]
    stamp: Stamp
    ignored: tuple[str, ...]
    warnings: tuple[str, ...]
    rested: bool

    @property
    def lifetime_step(self) -> int:
        """Steps that its moments have seen; 0 where they begin anew."""
        if self.moments is None:
            return 0
        return self.moments.num_steps or self.log.num_steps or 1  # SGD counts none

    @property
    def shape(self) -> dict[str, Any]:
        """[lora] of mvc.toml for it."""
        told = self.lora
        targets = told.target_modules
        return {
            "r": told.r,
            "alpha": told.lora_alpha,
            "dropout": told.lora_dropout,
            "target_modules": targets if isinstance(targets, str) else sorted(targets or ()),
            "modules_to_save": sorted(told.modules_to_save or ()),
            "use_dora": told.use_dora,
            "use_rslora": told.use_rslora,
        }

    @property
    def form(self) -> tuple[Any, ...]:
        """What must be the same in all states of a line."""
        told = self.lora.to_dict()
        return tuple(
            sorted(value) if isinstance(value, set | list) else value
            for value in (told.get(key) for key in (*_SHAPE, *_PATTERNS))
        )

    @property
    def train(self) -> dict[str, Any]:
        """What of [train] in mvc.toml it was trained with, as far as its files tell."""
        rates = [point.learning_rate for point in self.log.points if point.learning_rate > 0]
        group = self.moments.group if self.moments else {}
        peak = next((r for k in ("initial_lr", "lr") if (r := _positive(group.get(k)))), None)
        found: dict[str, Any] = {}
        if rate := peak or max(rates, default=None):
            found["learning_rate"] = rate
        if self.moments is None:
            return found
        # Whole moments need no warm-up, and what the old schedule was no file tells.
        found |= {"schedule": "constant", "warmup_steps": 0}
        if decay := _positive(group.get("weight_decay")):
            found["weight_decay"] = decay
        name = self.moments.optimizer
        found["optimizer"] = {"Adafactor": "adafactor", "SGD": "sgd"}.get(
            name, "adamw_torch_fused" if group.get("fused") else "adamw_torch"
        )
        if name == "SGD":
            found["optimizer_args"] = f"momentum={group.get('momentum')}"
        return found


@contextmanager
def of(folder: Path) -> Iterator[None]:
    """Let an error about a state say in which foreign folder it is, and what to do about it."""
    try:
        yield
    except StateError as error:
        ours = not error.hint or "`mvc fsck`" in error.hint or "mvc.toml" in error.hint
        named = error.message.startswith(str(folder))
        message = error.message if named else f"{folder}: {error.message}"
        raise StateError(message, _LEFT if ours else error.hint) from error.__cause__


def look(folder: Path, within: Path) -> Found:
    """Look at the state in `folder`; every byte of it must lie below `within`.

    Raises:
        StateError: it is no LoRA adapter that mvc can train, a file of it holds more than data,
            or is a link that leads elsewhere.
    """
    with of(folder):
        return _look(folder, within)


def _look(folder: Path, within: Path) -> Found:
    names = sorted(path.name for path in folder.iterdir())
    rng = tuple(name for name in names if _RNG.fullmatch(name))
    tokenizer = tuple(
        name for name in names if any(fnmatch.fnmatch(name, known) for known in _TOKENIZER)
    )
    if code.find(folder).classes:  # its code is held against the base's before it may run
        tokenizer += tuple(name for name in names if name.endswith(".py"))
    own = (state.ADAPTER, state.ADAPTER_CONFIG, state.OPTIMIZER, state.SCHEDULER)
    used = [n for n in names if n in (*own, state.TRAINER_STATE, *rng, *tokenizer)]
    for name in used:
        _inside(folder / name, within)
    if state.ADAPTER not in used:
        old = "adapter_model.bin" in names
        raise StateError(
            f"there is no {state.ADAPTER}" + (", only a pickled adapter_model.bin" if old else ""),
            "load the adapter with PEFT and `save_pretrained` it again, then import that folder"
            if old
            else _LEFT,
        )
    header = state.adapter_header(folder / state.ADAPTER)
    warnings: list[str] = []
    moments = _moments(folder / state.OPTIMIZER, warnings)
    rested = False
    if moments is not None:
        _check_random_states(folder, rng, warnings)
        rested = _rested(folder / state.SCHEDULER)
    log = foreign_log.read(folder / state.TRAINER_STATE)
    if log.num_broken:
        warnings.append(f"{log.num_broken} of its losses are no finite numbers and were left out")
    return Found(
        folder=folder,
        lora=_lora(folder / state.ADAPTER_CONFIG, header),
        header=header,
        moments=moments,
        log=log,
        rng=rng,
        tokenizer=tokenizer,
        stamp=stamp(folder, used),
        ignored=tuple(name for name in names if name not in used),
        warnings=tuple(warnings),
        rested=rested,
    )


def stamp(folder: Path, names: list[str]) -> Stamp:
    """What tells that a file was changed since."""
    found = ((name, (folder / name).stat()) for name in names)
    return tuple((name, told.st_size, told.st_mtime_ns) for name, told in found)


def _inside(path: Path, within: Path) -> None:
    if not path.resolve().is_relative_to(within.resolve()):
        raise StateError(
            f"{path.name} is a link to {path.resolve()}, outside of what is imported",
            "copy the folder with its files (`cp -rL`), then import the copy",
        )
    if not path.is_file():
        raise StateError(f"{path.name} is no file", _LEFT)


def _lora(path: Path, header: Mapping[str, tuple[list[int], str]]) -> LoraConfig:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        told = dict(json.loads(path.read_bytes()))
        for key, harmless in _SPENT.items():
            if harmless is None or told.get(key) in harmless:
                told.pop(key, None)
        if told.get("task_type") not in (None, "CAUSAL_LM"):
            raise ValueError(f"its task is {told['task_type']}, mvc trains causal language models")
        return untrusted.lora(told | {"task_type": "CAUSAL_LM"}, header)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateError(f"{path.name} cannot be used: {str(error)[:200]}", _LEFT) from error


def _moments(path: Path, warnings: list[str]) -> Moments | None:
    """What optimizer.pt holds; None, and a warning, where training cannot go on from it."""
    if not path.is_file():
        warnings.append("it has no optimizer.pt: moments and lifetime step begin anew here")
        return None
    saved = state.load_torch(path, mmap=True)
    entries = saved.get("state") if isinstance(saved, dict) else None
    groups = saved.get("param_groups") if isinstance(saved, dict) else None
    if not isinstance(entries, dict) or not isinstance(groups, list) or not groups:
        raise StateError(f"{path.name} is no optimizer's state", _LEFT)
    if not all(isinstance(each, dict) for each in (*entries.values(), *groups)):
        raise StateError(f"{path.name} is no optimizer's state", _LEFT)
    name = _class([set(entry) for entry in entries.values()])
    if name is None:
        what = ", ".join(sorted({str(key) for entry in entries.values() for key in entry})[:4])
        warnings.append(
            f"its optimizer ({what or 'without moments'}) is none that mvc goes on with: moments "
            "and lifetime step begin anew here"
        )
        return None
    steps = [_count(entry["step"]) for entry in entries.values() if "step" in entry]
    for key, default in _DEFAULTS.items() if name == "AdamW" else ():
        value = groups[0].get(key, default)
        value = tuple(value) if isinstance(value, list) else value
        if value != default:
            warnings.append(f"its {name} had {key} {value}, mvc goes on with {default}")
    return Moments(name, max(steps, default=0), groups[0])


def _class(keys: list[set[Any]]) -> str | None:
    """The optimizer whose entries have these keys; None for one that mvc does not know."""
    if keys and all(each == {"step", "exp_avg", "exp_avg_sq"} for each in keys):
        return "AdamW"
    if any("exp_avg_sq_row" in each for each in keys):
        return "Adafactor"
    return "SGD" if keys and all(each == {"momentum_buffer"} for each in keys) else None


def _count(value: Any) -> int:
    import torch

    number = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    known = isinstance(number, int | float) and math.isfinite(number) and 0 <= number < 2**53
    if not known or number != int(number):
        raise StateError(f"{state.OPTIMIZER} counts {str(number)[:40]} steps", _LEFT)
    return int(number)


def _check_random_states(folder: Path, names: tuple[str, ...], warnings: list[str]) -> None:
    if not names:
        warnings.append("it has no rng_state.pth: the random state was made from train.seed")
    for name in names:
        if not {"python", "numpy", "cpu"} <= _mapping(folder / name).keys():
            raise StateError(f"{name} is no random state", _LEFT)


def _rested(path: Path) -> bool:
    """Whether the schedule had come down to a rate of 0."""
    rates = _mapping(path).get("_last_lr") if path.is_file() else None
    return isinstance(rates, list) and bool(rates) and not any(map(_positive, rates))


def _mapping(path: Path) -> dict[Any, Any]:
    found = state.load_torch(path)
    if not isinstance(found, dict):
        raise StateError(f"{path.name} holds something else than it should", _LEFT)
    return found


def _positive(value: Any) -> float | None:
    import torch

    number = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    known = isinstance(number, int | float) and not isinstance(number, bool)
    return float(number) if known and math.isfinite(number) and number > 0 else None
