"""A whole model: the base with an adapter merged into its weights.

Owns writing it as an ordinary checkpoint, in the base's own precision, that transformers loads
without PEFT.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mvc.engine import base as bases
from mvc.engine import session as sessions
from mvc.engine.quiet import quiet
from mvc.errors import StateError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mvc.settings import Settings

_FP16, _BF16 = "float16", "bfloat16"


def merge(settings: Settings, root: Path, folder: Path, target: Path, allowed: str = "") -> None:
    """Write the base of `settings` with the adapter in `folder` into the new folder `target`.

    Args:
        settings: mvc.toml's of the state.
        root: the model repo, where a relative base is looked for.
        folder: the state.
        target: is made.
        allowed: as in `Session`.

    Raises:
        BaseModelError: the base cannot be found or read, or is another one.
        StateError: the adapter does not fit it, or a merged weight is no number.
    """
    session = sessions.Session(root, allowed)
    base = session.base(settings)
    told = json.loads((bases.weights_folder(base) / "config.json").read_bytes())
    dtype = told.get("dtype") or told.get("torch_dtype")
    adapter = sessions.shape(folder, settings)
    with quiet():
        model = bases.load_model(base, "bf16" if dtype == _BF16 else "fp32", allowed=allowed)
        tied = _untie(model)
        try:
            merged = sessions.put_on(model, adapter, folder).merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise StateError(
                f"the adapter cannot be merged: {error}", "`mvc export` another revision"
            ) from error
        if tied:
            _tie_again(merged)
        merged.config.use_cache = bool(told.get("use_cache", True))  # training has no use for it
        (merged.half() if dtype == _FP16 else merged).save_pretrained(target)
        session.tokenizer(settings, folder).save_pretrained(target)
    for name, _ in base.code.files:
        shutil.copyfile(base.code.folder / name, target / name)
    readable = 0o666 & ~_umask()
    for path in target.rglob("*.safetensors"):
        path.chmod(readable)  # safetensors writes them for their owner alone


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _untie(model: PreTrainedModel) -> bool:
    """Give the output embeddings weights of their own where they share the input's.

    An adapter on one of the two would be merged into both.
    """
    from torch import nn

    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return False
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
    return True


def _tie_again(model: PreTrainedModel) -> None:
    """Store the embeddings once, as the base does, where merging left both alike."""
    import torch

    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if torch.equal(head.weight, embeddings.weight):
        head.weight = embeddings.weight
        model.config.tie_word_embeddings = True
