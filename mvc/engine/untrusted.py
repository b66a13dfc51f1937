"""State files that may come from a stranger, looked at before anything of them is opened.

Owns telling code from data in torch's files without unpickling them, bounds on what their headers
declare, and what an adapter's configuration may ask for. `state` then opens them, with
`weights_only=True`, and compares them with the model.
"""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvc.errors import StateError

if TYPE_CHECKING:
    from peft import LoraConfig

REFUSED = (
    "`mvc fsck` tells whether it was damaged here; if it was not, `mvc checkout` another revision "
    "and tell whoever made this one"
)
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}
_LARGEST_PICKLE = 16 << 20
"""Bytes of the pickle inside an archive: it names tensors, whose values lie beside it."""
_LARGEST_HEADER = 16 << 20
# What torch.save writes for tensors and the Trainer for numpy's random state; all of it is data.
_DATA = re.compile(
    r"torch \w+Storage|torch Size|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|collections OrderedDict|_codecs encode|numpy (ndarray|dtype)|numpy\.dtypes \w+DType"
    r"|numpy\.(_core|core)\.multiarray _reconstruct"
)
_UNSEEN = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID"}
"""Opcodes whose global cannot be read off the pickle; torch.save writes none of them."""
# An adapter's own shape. All other keys must stand at PEFT's default: some of them import a module
# by name (megatron_core), download, or repeat layers.
_SHAPE = {
    *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "peft_version"),
    *("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_dora"),
    *("use_rslora", "rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "fan_in_fan_out"),
}
# PEFT takes each of them for a regular expression, and one can be written that never ends.
_OF_MODULES = (
    *("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"),
    *("rank_pattern", "alpha_pattern"),
)
_MODULE = re.compile(r"\^?[\w.-]+")


def check_files(folder: Path) -> None:
    """Look through every file of a state that a pickle could be in; nothing is unpickled.

    Raises:
        StateError: naming the file, and what in it is not data.
    """
    for path in sorted(folder.rglob("*")):
        if path.name == "training_args.bin":
            raise StateError("the state holds training_args.bin, a pickled object", REFUSED)
        if path.suffix in _PICKLES:
            check_torch(path)


def check_torch(path: Path) -> None:
    """Refuse a torch archive that holds code, or that unfolds to more than its own size.

    Raises:
        StateError: it is no archive of `torch.save`, is damaged, or holds more than data.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            names = [record.filename for record in records]
            pickles = [record for record in records if record.filename.endswith("data.pkl")]
            if len(set(names)) < len(names) or len(pickles) != 1:
                raise ValueError("is no archive that torch.save writes")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError("holds compressed records, which torch.save never writes")
            if sum(record.file_size for record in records) > size:
                raise ValueError("declares more bytes than it has")
            if pickles[0].file_size > _LARGEST_PICKLE:
                raise ValueError(f"holds a pickle of {pickles[0].file_size} bytes")
            _only_data(archive.read(pickles[0]))
    except zipfile.BadZipFile as error:
        why = "is no archive that torch.save writes"
        raise StateError(f"{path.name} of the state cannot be read: it {why}", REFUSED) from error
    except (OSError, ValueError, EOFError, NotImplementedError) as error:
        # Ours, and what pickletools and zipfile raise for a broken file.
        raise StateError(f"{path.name} of the state cannot be read: it {error}", REFUSED) from error


def _only_data(pickled: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _UNSEEN:
            raise ValueError(f"holds an object of a kind that cannot be checked ({opcode.name})")
        if opcode.name == "GLOBAL" and not _DATA.fullmatch(str(argument)):
            raise ValueError(f"holds code or a foreign object: {str(argument)[:80]}")


def check_tensors(value: Any, name: str) -> None:
    """Refuse tensors whose shape is more than their bytes, in what was read from file `name`.

    A shape of a million million elements over one stored number costs nothing until it is used.

    Raises:
        StateError: there is one, or one that is not dense and on the CPU.
    """
    import torch

    seen: set[int] = set()
    todo = [value]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, torch.Tensor):
            dense = each.layout is torch.strided and each.device.type == "cpu"
            if not dense or each.nbytes > each.untyped_storage().nbytes():
                raise StateError(
                    f"{name} of the state cannot be read: a tensor of shape {list(each.shape)} is "
                    "larger than what is stored of it",
                    REFUSED,
                )
        elif isinstance(each, Mapping):
            todo += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set):
            todo += each


def check_header(path: Path) -> None:
    """Refuse a safetensors file whose header claims more than a header can be.

    Raises:
        StateError: it does.
    """
    with path.open("rb") as file:
        declared = int.from_bytes(file.read(8), "little")
    if declared > min(_LARGEST_HEADER, path.stat().st_size):
        raise StateError(
            f"{path.name} of the state cannot be read: its header is said to be {declared} bytes",
            REFUSED,
        )


def lora(found: dict[str, Any], header: Mapping[str, tuple[list[int], str]]) -> LoraConfig:
    """The configuration of a stored adapter, once it is sure that it asks for a plain LoRA.

    Args:
        found: adapter_config.json.
        header: Names, shapes and dtypes of the stored tensors (`state.adapter_header`): a rank
            that none of them has would only take memory.

    Raises:
        ValueError: it asks for anything else.
    """
    from peft import LoraConfig

    if found.get("peft_type") != "LORA":
        raise ValueError("another kind of adapter than LoRA")
    # As adapter_config.json would say it.
    default = json.loads(json.dumps(LoraConfig().to_dict(), default=_plain))
    for key in sorted(found.keys() - _SHAPE):
        if found[key] and found[key] != default.get(key):
            raise ValueError(f"it sets {key}, which mvc does not use")
    for key in _OF_MODULES:
        value = found.get(key) or ()
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple | dict) or not all(map(_is_module, names)):
            raise ValueError(f"its {key} is a pattern; mvc takes the names of modules only")
    patterns = found.get("rank_pattern") or {}
    ranks = [found.get("r"), *(patterns.values() if isinstance(patterns, dict) else [None])]
    if not all(isinstance(r, int) and not isinstance(r, bool) and r > 0 for r in ranks):
        raise ValueError("its ranks are no whole numbers above 0")
    shapes = [shape for name, (shape, _) in header.items() if "lora_" in name and shape]
    stored = max(map(max, shapes), default=0)
    if max(ranks) > stored:
        raise ValueError(f"it declares rank {max(ranks)}, the stored tensors have {stored}")
    config = LoraConfig.from_peft_type(**{k: found[k] for k in found.keys() & default.keys()})
    assert isinstance(config, LoraConfig)
    return config


def _is_module(name: Any) -> bool:
    return isinstance(name, str) and _MODULE.fullmatch(name) is not None


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", str(value))
