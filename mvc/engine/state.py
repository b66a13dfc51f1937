"""The state as files: adapter, optimizer, scheduler, random state, trainer_state.json.

Owns their format (an ordinary Hugging Face adapter checkpoint that the Trainer resumes from),
writing them hashed, and loading them checked. Everything is written to the same bytes for the
same values: the same state is the same objects in the cache. Nothing is unpickled with anything
but `weights_only=True`, and no training_args.bin is written or read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from mvc.engine import fsdp
from mvc.engine.hashed import HashedFile
from mvc.engine.untrusted import check_header, check_tensors, check_torch
from mvc.errors import StateError
from mvc.types import CurvePoint, FileDigest

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
TRAINER_STATE = "trainer_state.json"
PARAMETERS = "optimizer_parameters.json"
"""Names and shapes behind the positions of optimizer.pt, which torch stores without names."""

_REPAIR = "run `mvc fsck`, then `mvc checkout` of a revision that is whole"


def write_bytes(folder: Path, name: str, data: bytes) -> FileDigest:
    """Write one file of a state, hashed and fsynced."""
    with HashedFile(folder / name) as file:
        file.write(data)
    return file.digest


def write_json(folder: Path, name: str, value: Any) -> FileDigest:
    """Write one JSON file of a state."""
    return write_bytes(folder, name, (json.dumps(value, sort_keys=True) + "\n").encode())


def write_torch(folder: Path, name: str, value: Any) -> FileDigest:
    """`torch.save` one file of a state, hashed while it is written.

    Through a file object torch names the archive's root "archive"; by path it would be the
    file's own name, and the bytes would depend on it (torch.serialization.save).
    """
    import torch

    value = _on_cpu(value)  # a state from a GPU must open on any machine
    with HashedFile(folder / name) as file:
        try:
            torch.save(value, cast("IO[bytes]", file))
        except RuntimeError as error:  # torch's writer hides the disk's error behind its own
            raise file.error or error from error
    return file.digest


def torch_bytes(value: Any) -> bytes:
    """The bytes of `write_torch`'s file, for what is small."""
    import torch

    file = io.BytesIO()
    torch.save(_on_cpu(value), file)
    return file.getvalue()


def _on_cpu(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_on_cpu(each) for each in value)
    return value


def load_torch(path: Path, *, mmap: bool = False) -> Any:
    """Read a file of `write_torch` or of the Trainer; numbers and tensors only, never code.

    With `mmap` a tensor's values are read from the disk when they are looked at.

    Raises:
        StateError: the file is missing, damaged, or holds anything but data.
    """
    import torch
    from transformers.trainer_pt_utils import safe_globals

    try:
        check_torch(path)
        with safe_globals():
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except StateError:
        raise
    except Exception as error:  # what a made-up pickle raises has no common root
        raise StateError(f"{path.name} of the state cannot be read", _REPAIR) from error
    check_tensors(found, path.name)
    return found


def trainable(model: torch.nn.Module) -> list[tuple[str, list[int]]]:
    """Names and shapes of the parameters that training changes, in the model's order."""
    return [(n, list(p.shape)) for n, p in model.named_parameters() if p.requires_grad]


def optimizer_parameters(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """What the positions in optimizer.pt mean: the optimizer's class, and names and shapes."""
    names = {id(p): n for n, p in model.named_parameters()}
    inner = getattr(optimizer, "optimizer", optimizer)
    return {
        "optimizer": type(inner).__name__,
        "groups": [
            [[names[id(p)], list(p.shape)] for p in group["params"]]
            for group in optimizer.param_groups
        ],
    }


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors by PEFT's names; they are the model's own, not copies."""
    return {name: each.detach() for name, each in adapter_parameters(model).items()}


def adapter_parameters(model: PeftModel) -> dict[str, torch.Tensor]:
    """The parameters behind `adapter_tensors`, for who takes them often: PEFT looks for those of
    196 modules for 0.08 s."""
    from peft import get_peft_model_state_dict

    own = model.state_dict(keep_vars=True)
    return dict(sorted(get_peft_model_state_dict(model, own, save_embedding_layers=False).items()))


def adapter_config(model: PeftModel, base_ref: str) -> bytes:
    """The bytes of adapter_config.json.

    PEFT's own `save_pretrained` writes a model card too, and `target_modules` in the order of a
    set, which differs from process to process; here lists are sorted.
    """
    config = model.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=base_ref, inference_mode=True)
    return (json.dumps(config, indent=2, sort_keys=True, default=_plain) + "\n").encode()


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> FileDigest:
    """Write adapter_model.safetensors; the adapter stays fp32: bf16 would lose bits at every
    batch's end.

    The bytes are those of `safetensors.torch.save`, which makes all of them in memory first: half
    a second for 323 MB. Source: safetensors/src/tensor.rs, prepare.
    """
    import torch
    from safetensors.torch import save

    plain = {name: tensor.cpu().contiguous() for name, tensor in sorted(tensors.items())}
    metadata = {"format": "pt"}
    if any(tensor.dtype != torch.float32 for tensor in plain.values()):
        return write_bytes(folder, ADAPTER, save(plain, metadata=metadata))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in plain.items():
        begin, end = end, end + tensor.nbytes
        offsets = [begin, end]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with HashedFile(folder / ADAPTER) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in plain.values():
            file.write(tensor.reshape(-1).numpy())
    return file.digest


def write_adapter(folder: Path, model: PeftModel, base_ref: str) -> list[FileDigest]:
    """Write adapter_model.safetensors and adapter_config.json."""
    return [
        write_tensors(folder, adapter_tensors(model)),
        write_bytes(folder, ADAPTER_CONFIG, adapter_config(model, base_ref)),
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", str(value))


def write_trainer_state(
    folder: Path, curve: Sequence[CurvePoint], num_steps: int, micro_batch_size: int
) -> FileDigest:
    """Write trainer_state.json: the counter at 0, the log the batch's own, no clock in it.

    `global_step` is 0 because the Trainer counts steps inside one run: at the old batch's count
    the next run would end before its first step (DESIGN.md, Fixed 3). Written from the curve,
    not from the Trainer, so that a resumed batch gives the same bytes.
    """
    from dataclasses import asdict

    from transformers import TrainerState

    history: list[dict[str, float]] = []
    for point in curve:
        entry = {
            "epoch": point.step / num_steps,
            "learning_rate": point.learning_rate,
            "loss": point.loss,
            "step": point.step,
        }
        if point.grad_norm is not None:
            entry["grad_norm"] = point.grad_norm
        history.append(entry)
    state = TrainerState(
        global_step=0,
        max_steps=num_steps,
        num_train_epochs=1,
        logging_steps=1,
        train_batch_size=micro_batch_size,
        log_history=history,
    )
    text = json.dumps(asdict(state), indent=2, sort_keys=True) + "\n"
    return write_bytes(folder, TRAINER_STATE, text.encode())


def check_adapter(folder: Path, model: PeftModel) -> None:
    """Refuse an adapter whose tensors are not exactly the model's, before any is loaded.

    PEFT only warns about missing keys and silently keeps fresh weights (peft#282, #3580).

    Raises:
        StateError: names, shapes or dtypes differ.
    """
    from peft import get_peft_model_state_dict

    expected = {
        k: (list(v.shape), str(v.dtype).removeprefix("torch."))
        for k, v in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    found = adapter_header(folder / ADAPTER)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise StateError(
                f"the stored adapter does not fit the model: {name} is {found.get(name)}, "
                f"the model has {expected.get(name)}",
                "put [base] and [lora] in mvc.toml back to what the line was trained with, "
                "or `mvc init` a new model repo",
            )


def adapter_header(path: Path) -> dict[str, tuple[list[int], str]]:
    """Names, shapes and dtypes in a safetensors file, read from its header alone."""
    from safetensors import SafetensorError, safe_open

    dtypes = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (list(s.get_shape()), dtypes.get(s.get_dtype(), s.get_dtype()))
                for name, s in slices.items()
            }
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path.name} of the state cannot be read", _REPAIR) from error


def load_adapter(folder: Path, model: PeftModel) -> None:
    """Put the stored adapter's weights into `model`; call `check_adapter` first."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / ADAPTER))


def load_optimizer(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the moments into `optimizer`; its groups keep the values of mvc.toml.

    torch keys the state by position and accepts permuted parameters; names and shapes are
    checked first. A rate, decay or beta in the stored groups is not taken over: mvc.toml rules
    (DESIGN.md, Fixed 5).

    Raises:
        StateError: another optimizer, other parameters, or moments of another shape.
    """
    expected = optimizer_parameters(model, optimizer)
    try:
        stored = dict(json.loads((folder / PARAMETERS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"{PARAMETERS} of the state cannot be read", _REPAIR) from error
    if stored.get("optimizer") != expected["optimizer"]:
        raise StateError(
            f"the line was trained with {stored.get('optimizer')}, mvc.toml now asks for "
            f"{expected['optimizer']}, which cannot go on with its moments",
            "put train.optimizer in mvc.toml back, or `mvc init` a new model repo",
        )
    if stored.get("groups") != expected["groups"]:
        raise StateError(
            "the set of trainable parameters is not the one that the moments belong to",
            "put [base] and [lora] in mvc.toml back to what the line was trained with",
        )
    saved = load_torch(folder / OPTIMIZER)
    current = optimizer.state_dict()
    forgets = optimizer.defaults.get("momentum") == 0  # SGD without it keeps nothing
    if forgets and isinstance(saved, dict) and saved.get("state") == {}:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = check_moments(saved, [list(p.shape) for p in parameters])
    moments = {i: fsdp.spread(entry, parameters[i]) for i, entry in moments.items()}
    optimizer.load_state_dict({"state": moments, "param_groups": current["param_groups"]})


def check_moments(saved: Any, shapes: Sequence[list[int]]) -> dict[int, dict[str, Any]]:
    """The moments in what optimizer.pt holds, one entry for each of the parameters' `shapes`.

    Raises:
        StateError: there is another number of them, or one of another shape.
    """
    moments = saved.get("state") if isinstance(saved, dict) else None
    if not isinstance(moments, dict) or moments.keys() != set(range(len(shapes))):
        raise StateError(f"{OPTIMIZER} does not hold one entry for each parameter", _REPAIR)
    for index, shape in enumerate(shapes):
        _check_moment(moments[index], shape, index)
    return moments


def _check_moment(entry: Any, shape: list[int], index: int) -> None:
    import torch

    if not isinstance(entry, dict):
        raise StateError(f"{OPTIMIZER} holds no moments for parameter {index}", _REPAIR)
    for key, value in entry.items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            continue
        factored = str(key).endswith(("_row", "_col"))  # Adafactor's, one dimension less
        fits = (shape[:-1], shape[:-2] + shape[-1:]) if factored else (shape,)
        if list(value.shape) not in fits:
            raise StateError(
                f"{OPTIMIZER}: {key} of parameter {index} has shape {list(value.shape)}, "
                f"the parameter has {shape}",
                _REPAIR,
            )


def adam_steps(optimizer: torch.optim.Optimizer) -> tuple[int, ...]:
    """The distinct per-parameter step counts of an optimizer that keeps them (AdamW, Adafactor)."""
    import torch

    found = [entry["step"] for entry in optimizer.state.values() if "step" in entry]
    if found and isinstance(found[0], torch.Tensor):
        found = torch.stack(found).tolist()  # one wait for the device, not hundreds
    return tuple(sorted({int(each) for each in found}))
