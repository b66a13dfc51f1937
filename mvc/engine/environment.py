"""What a batch was trained with: versions, device, threads, precision, processes.

A commit records it, because the same rows give other bits on another device or torch.
"""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import version
from typing import Any

from mvc.version import VERSION

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")
"""What may change the bits, besides mvc itself."""


def describe(dtype: str, world_size: int) -> dict[str, Any]:
    """The environment of this process, as the commit records it.

    Args:
        dtype: what the base computes in ("float32", "bfloat16").
        world_size: number of processes that train together.
    """
    import torch

    return {
        "mvc": VERSION,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "world_size": world_size,
    }


def peak_memory_bytes() -> int:
    """Most memory in use so far: on the GPU where there is one, else this process's."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
