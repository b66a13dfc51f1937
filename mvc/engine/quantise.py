"""A base in 4 bits while it is trained on (QLoRA), by bitsandbytes."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from mvc.errors import MissingExtra

if TYPE_CHECKING:
    import torch


def four_bits(dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` must be told: NF4, its constants quantised too, steps in `dtype`.

    Raises:
        MissingExtra: bitsandbytes is not installed.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(
            'base.quantization = "nf4" needs bitsandbytes, which is not installed',
            "pip install 'mvc-model[qlora]'",
        )
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    here = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": how, "device_map": {"": here}}
