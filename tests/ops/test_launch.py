"""Several processes train one batch: on two machines, under any launcher, and with one killed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mvc.engine.state import ADAPTER, load_torch
from mvc.errors import ConfigError, UsageError
from mvc.ops import train, trust
from mvc.store import history
from mvc.store.layout import Layout
from tests.ops.conftest import Heard, edit, state_bytes, train_one, write_batch
from tests.ops.launching import (
    HERE,
    MVC,
    TORCHRUN,
    assert_trained_once,
    ended,
    make_model,
    owned,
    rank_of,
    srun,
    train_on,
    two_machines,
    wait_for,
)

pytestmark = pytest.mark.slow

FSDP = """\
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
"""


@pytest.fixture(scope="module")
def _made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model, `undisturbed` after the batch, and the batch."""
    folder = tmp_path_factory.mktemp("launch")
    made, data = make_model(folder, tiny_base)
    subprocess.run(["cp", "-a", made.root, folder / "undisturbed"], check=True)
    assert train_one(Layout(folder / "undisturbed"), data, nproc=2).commit.steps == 20
    return folder


@pytest.fixture
def data(_made: Path) -> Path:
    return _made / "day.jsonl"


@pytest.fixture
def undisturbed(_made: Path) -> Layout:
    return Layout(_made / "undisturbed")


@pytest.fixture
def at(_made: Path, tmp_path: Path) -> Layout:
    """The untrained model, this test's own."""
    return owned(_made / "model", tmp_path)


def test_two_machines_train_as_two_processes_do(
    at: Layout, data: Path, undisturbed: Layout, tmp_path: Path
) -> None:
    with two_machines(hidden=at.root.parent) as machines:
        clone, running = train_on(machines, at, data, tmp_path)
        done = [ended(each) for each in running]
    assert [code for code, _ in done] == [0, 0], done
    assert_trained_once(at, undisturbed)
    assert len(history.log(clone.root, "HEAD")) == 1
    assert "where the commits are" in done[1][1]


def test_a_killed_rank_ends_the_batch_for_all_and_the_next_run_goes_on(
    at: Layout, data: Path, undisturbed: Layout
) -> None:
    """The next run is another launcher's, which is joined."""
    running = HERE.start(*MVC, "train", "--nproc", 2, data, cwd=at.root)
    wait_for(at.run / "checkpoints" / "checkpoint-3", running)
    rank_of(running, 1).kill()
    code, said = ended(running)
    assert code == 1 and "goes on from the last checkpoint" in said, said
    assert len(history.log(at.root, "HEAD")) == 1

    code, said = ended(HERE.start(*TORCHRUN, "-m", "mvc", "train", data, cwd=at.root))
    assert code == 0 and "resuming" in said and said.count("Committing") == 1, said
    assert_trained_once(at, undisturbed)


def test_a_rank_that_slurm_loses_ends_the_batch(at: Layout, data: Path, tmp_path: Path) -> None:
    """No torchrun watches here: the one that is left must notice by itself."""
    running = srun(at.root, [data], tmp_path / "elsewhere")
    wait_for(at.run / "checkpoints" / "checkpoint-3", running[0])
    running[1].kill()
    code, said = ended(running[0])
    ended(running[1])
    assert code == 1 and "broke off" in said and "goes on from the last checkpoint" in said, said
    assert len(history.log(at.root, "HEAD")) == 1


def test_a_rank_with_another_base_fails_the_batch_for_all(
    at: Layout, data: Path, tiny_base: Path, tmp_path: Path
) -> None:
    (at.root / "base").symlink_to(tiny_base)
    edit(at, "base.model=base")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tiny_base, elsewhere / "base")
    weights = elsewhere / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    running = srun(at.root, [data], elsewhere)
    (owner, first), (other, second) = map(ended, running)
    assert owner == other == 1
    assert "Error: process 1: base model base is another one" in first, first
    assert "Error: base model base is another one" in second, second
    assert len(history.log(at.root, "HEAD")) == 1


def test_fsdp_leaves_a_state_that_one_process_goes_on_with(
    at: Layout, data: Path, undisturbed: Layout, tmp_path: Path
) -> None:
    (at.root / "fsdp.yaml").write_text(FSDP)
    edit(at, "launch.nproc=2", "launch.fsdp=fsdp.yaml")
    whole = Layout(shutil.copytree(at.root, tmp_path / "whole", symlinks=True))
    heard = Heard()
    train_one(at, data, progress=heard)
    (note,) = (note for note in heard.notes if note.startswith("FSDP: "))
    num_spread, num_parameters = map(int, re.findall("[0-9]+", note)[:2])
    assert num_spread == num_parameters and note.endswith("over 2 processes")
    ours, theirs = (load_file(each.state / ADAPTER) for each in (at, undisturbed))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-4, rtol=1e-3)
    ours, theirs = (load_torch(each.state / "optimizer.pt") for each in (at, undisturbed))
    assert ours["param_groups"] == theirs["param_groups"]
    for number, entry in theirs["state"].items():
        for name, tensor in entry.items():
            torch.testing.assert_close(ours["state"][number][name], tensor, atol=1e-4, rtol=1e-3)
    assert {p.name for p in at.state.iterdir()} == {p.name for p in undisturbed.state.iterdir()}

    running = HERE.start(*MVC, "train", data, cwd=whole.root)
    wait_for(whole.run / "checkpoints" / "checkpoint-3", running)
    rank_of(running, 1).kill()
    assert ended(running)[0] == 1
    heard = Heard()
    train_one(whole, data, progress=heard)
    assert heard.starts[0][2] >= 3
    assert state_bytes(whole) == state_bytes(at)

    edit(at, "launch.nproc=1")
    alone = train_one(at, write_batch(tmp_path / "next.jsonl", 50, 4))
    assert alone.commit.lifetime_step == 24
    assert any("seeded anew for 1 processes" in text for text in alone.commit.warnings)


def test_what_a_launch_cannot_be_is_refused(
    at: Layout, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    edit(at, "launch.nnodes=2")
    with pytest.raises(ConfigError, match="must meet somewhere"):
        train_one(at, data)
    edit(at, "launch.rdzv_endpoint=127.0.0.1:1")
    for rank in (0, 1):
        with pytest.raises(ConfigError, match=r"whoever joins there is sent the data") as caught:
            list(train.train(at, [data], node_rank=rank))
        assert "mvc trust --launch" in caught.value.hint
    trust.allow_launch(at)
    with pytest.raises(UsageError, match="no machine 2"):
        list(train.train(at, [data], node_rank=2))
    edit(at, "launch.nnodes=1", "launch.nproc=2", "launch.fsdp=missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read as an accelerate config"):
        train_one(at, data)
    (at.root / "missing.yaml").write_text("fsdp_config: {fsdp_version: 1}\n")
    with pytest.raises(ConfigError, match="configures FSDP 1"):
        train_one(at, data)
    environment: dict[str, Any] = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="has started 2 processes"):
        train.dry_run(at, [data], nproc=2)
