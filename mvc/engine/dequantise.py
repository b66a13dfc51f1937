"""GGUF files dequantised once: an ordinary fp32 checkpoint in a cache folder.

Owns the conversion and its being whole or absent, also when two processes convert at once or one
is killed. Knows neither names nor digests of base models (`base`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

_FORMAT = 1  # of a conversion; raise it when the conversion changes
_STALE_S = 3600.0  # a temporary folder this old belongs to a process that was killed


def dequantise(source: Path, target: Path) -> None:
    """Convert the GGUF file `source` into the folder `target`: config, fp32 weights, tokenizer.

    A damaged `target` is replaced; of two processes the first one's result stays.

    Raises:
        OSError: the folder cannot be written (4 bytes a parameter), or the file cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f"{target.name}.*"):
        if time.time() - old.stat().st_mtime > _STALE_S:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f"{target.name}.", ignore_cleanup_errors=True
    ) as scratch:
        made = Path(scratch) / "made"
        _convert(source, made)
        _seal(made)
        if whole(target):
            return
        try:
            if target.exists():
                target.rename(Path(scratch) / "damaged")
            made.rename(target)
        except OSError:
            if not whole(target):  # else another process was first
                raise


def _convert(source: Path, made: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers import modeling_gguf_pytorch_utils as reader

    # This one bar does not heed transformers' own switch (`disable_progress_bar`).
    bar, reader.tqdm = reader.tqdm, partial(reader.tqdm, disable=True)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, trust_remote_code=False
        )
    finally:
        reader.tqdm = bar
    # save_pretrained refuses a model that calls itself quantised; its tensors are fp32 already.
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(made)
    AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, trust_remote_code=False
    ).save_pretrained(made)


def _seal(made: Path) -> None:
    """Write the marker that makes a conversion whole, after its files are on the disk."""
    sizes = {}
    for path in sorted(made.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.name] = path.stat().st_size
    (made / "complete.json").write_text(json.dumps({"format": _FORMAT, "sizes": sizes}))


def whole(folder: Path) -> bool:
    """Whether a conversion is complete: its marker is there, every file has the size it names."""
    try:
        marker = json.loads((folder / "complete.json").read_bytes())
        return marker["format"] == _FORMAT and all(
            (folder / name).stat().st_size == size for name, size in marker["sizes"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
