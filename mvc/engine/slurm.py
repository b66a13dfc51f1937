"""Slurm's srun as a launcher: its names for what torch asks, and where the tasks of a step meet.

srun numbers its tasks and says on which machines they run, but not where they meet; that is the
first machine, where task 0 is, unless the user exported another.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

from mvc.errors import ConfigError

NODE_RANK = "MVC_NODE_RANK"
"""Set where a process is a machine of [launch], whoever started it."""

_FIRST_PORT, _NUM_PORTS = 15000, 10000  # below those that systems give out by themselves


def launched(env: Mapping[str, str]) -> dict[str, str]:
    """torch's names for this task of a step of several; nothing for any other process, or where
    somebody has set them.

    A batch script has the job's numbers too, and runs once: it is in no step. A shell inside an
    allocation is in a step of one task, while SLURM_NTASKS is still the job's.

    Raises:
        ConfigError: it cannot be told where the tasks meet.
    """
    if "RANK" in env or "SLURM_STEP_ID" not in env or NODE_RANK in env:
        return {}
    num_tasks = env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS", "1")
    if num_tasks == "1" or "SLURM_PROCID" not in env:
        return {}
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    host = env.get("MASTER_ADDR") or first_host(nodes)
    if not host:
        raise ConfigError(
            f"srun has started {num_tasks} tasks here, and it cannot be told where they meet",
            'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1) '
            "before the srun; or start one task, with --ntasks=1",
        )
    # A port of this step's own: machines are shared, and two that took one would meet each other.
    step = f"{env.get('SLURM_JOB_ID')}.{env['SLURM_STEP_ID']}"
    port = _FIRST_PORT + zlib.crc32(step.encode()) % _NUM_PORTS
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": num_tasks,
        "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": host,
        "MASTER_PORT": env.get("MASTER_PORT") or str(port),
    }


def first_host(nodes: str) -> str:
    """The first of the machines that Slurm writes as `rack[1-2]-n[01-04,07],login`."""
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", nodes).partition(",")[0]
