"""What a task of srun is to torch, and what is no task of a launch."""

from __future__ import annotations

import pytest

from mvc.engine import slurm
from mvc.errors import ConfigError

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "login,node[01-04,07]",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[02-04]",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
"""As srun sets them; in a batch script there is no step."""


def test_a_task_has_torch_s_names() -> None:
    told = slurm.launched(TASK)
    port = told.pop("MASTER_PORT")
    assert 15000 <= int(port) < 25000
    assert told == {"RANK": "3", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "MASTER_ADDR": "node02"}
    assert slurm.launched(TASK | {"SLURM_PROCID": "0"})["MASTER_PORT"] == port
    assert slurm.launched(TASK | {"SLURM_STEP_ID": "1"})["MASTER_PORT"] != port
    chosen = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert slurm.launched(TASK | chosen).items() > chosen.items()


@pytest.mark.parametrize(
    "but",
    [
        {"SLURM_STEP_ID": None},  # a batch script
        {"SLURM_STEP_NUM_TASKS": "1"},  # the shell of an allocation
        {"SLURM_STEP_NUM_TASKS": None, "SLURM_NTASKS": "1"},
        {"SLURM_PROCID": None},
        {"MVC_NODE_RANK": "0"},  # a machine of [launch], started by srun
    ],
)
def test_what_is_no_task_of_several(but: dict[str, str | None]) -> None:
    env = {name: value for name, value in (TASK | but).items() if value is not None}
    assert slurm.launched(env) == {}


def test_a_step_without_a_meeting_place_is_refused() -> None:
    env = {name: value for name, value in TASK.items() if "NODELIST" not in name}
    with pytest.raises(ConfigError, match="6 tasks") as caught:
        slurm.launched(env)
    assert "export MASTER_ADDR=$(scontrol show hostnames" in caught.value.hint
    assert slurm.launched(env | {"MASTER_ADDR": "node02"})["MASTER_ADDR"] == "node02"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node01", "node01"),
        ("node[01-04,07]", "node01"),
        ("node[7]", "node7"),
        ("login,node[01-04]", "login"),
        ("node[3,5-9],login", "node3"),
        ("rack[1-2]-n[08-11].hpc,login", "rack1-n08.hpc"),
        ("", ""),
    ],
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert slurm.first_host(nodes) == first
