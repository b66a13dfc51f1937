"""The random state of a process: taken, set, and the name of its file.

Owns python's, numpy's and torch's generators in the Trainer's own format. Files are `state`'s.
"""

from __future__ import annotations

import random
from typing import Any

from mvc.errors import StateError


def file_name(rank: int, world_size: int) -> str:
    """File of a process's random state, as the Trainer names it."""
    return "rng_state.pth" if world_size == 1 else f"rng_state_{rank}.pth"


def capture(world_size: int) -> dict[str, Any]:
    """The random state of this process, in the Trainer's format (`Trainer._save_rng_state`)."""
    import numpy as np
    import torch

    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = (
            torch.cuda.random.get_rng_state()
            if world_size == 1
            else torch.cuda.random.get_rng_state_all()
        )
    return states


def restore(states: dict[str, Any]) -> bool:
    """Set the random state of this process; False where it holds none for this GPU.

    Raises:
        StateError: it is no random state.
    """
    import numpy as np
    import torch

    try:
        random.setstate(states["python"])
        np.random.set_state(states["numpy"])
        torch.random.set_rng_state(states["cpu"])
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise StateError(
            "the stored random state is none",
            "run `mvc fsck`, then `mvc checkout` of a revision that is whole",
        ) from error
    if not torch.cuda.is_available():
        return True
    cuda = states.get("cuda")
    if isinstance(cuda, torch.Tensor):
        torch.cuda.random.set_rng_state(cuda)
    elif isinstance(cuda, list) and len(cuda) == torch.cuda.device_count():
        torch.cuda.random.set_rng_state_all(cuda)
    else:
        return False
    return True
