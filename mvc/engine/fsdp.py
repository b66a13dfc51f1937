"""FSDP as accelerate's own config file describes it: read, and made whole again.

Owns the file's reading, FSDP on CPUs, and gathering what is spread over the ranks, so that a state
has the same format at every number of processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvc.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from transformers import Trainer


def read(path: Path) -> dict[str, Any]:
    """The `fsdp_config` of an accelerate config file.

    Raises:
        ConfigError: there is no such file, or it configures no FSDP of version 2.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
        config = dict(found["fsdp_config"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"launch.fsdp: {path} cannot be read as an accelerate config: {error}",
            "make one with `accelerate config --config_file FILE` (FSDP), or empty launch.fsdp",
        ) from error
    if int(config.get("fsdp_version", 1)) != 2:
        raise ConfigError(
            f"launch.fsdp: {path} configures FSDP 1",
            "set `fsdp_version: 2` there (`accelerate to-fsdp2` converts the rest)",
        )
    return config


def enable(trainer: Trainer) -> None:
    """Have accelerate shard where it would not: on CPUs it takes no notice of the configuration
    and trains by DDP without a word (Source: accelerate/state.py, `AcceleratorState`)."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    if not trainer.args.fsdp or trainer.is_fsdp_enabled:
        return
    state = trainer.accelerator.state
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    trainer.is_fsdp_enabled = True


def check(trainer: Trainer, asked: bool) -> str | None:
    """What FSDP did to a model that is prepared for its first step; None where it is not `asked`.

    Raises:
        EngineError: it did nothing, and every device would hold the whole base.
    """
    from torch.distributed.tensor import DTensor

    if not asked:
        return None
    parameters = list(trainer.model.parameters())
    spread = sum(isinstance(each, DTensor) for each in parameters)
    if not spread:
        raise EngineError(
            "launch.fsdp is set, but no parameter of the base was spread over the processes",
            "look at fsdp_auto_wrap_policy in that file, or empty launch.fsdp in mvc.toml",
        )
    number = trainer.accelerator.num_processes
    return f"FSDP: {spread} of {len(parameters)} parameters are spread over {number} processes"


def whole(value: Any) -> Any:
    """`value` with every tensor in it whole, on the CPU where it was in parts.

    All ranks must call it together.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(whole(each) for each in value)
    return value


def spread(entry: dict[str, Any], parameter: Any) -> dict[str, Any]:
    """One parameter's moments in the parts in which the parameter itself is spread."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return entry
    mesh, places = parameter.device_mesh, parameter.placements
    return {
        key: distribute_tensor(each.to(parameter.device), mesh, places)
        if getattr(each, "shape", None) == parameter.shape
        else each
        for key, each in entry.items()
    }
