"""Joining what somebody else launched: torchrun, Slurm's srun, Ray Train."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mvc.ops import init, train
from mvc.store import history
from mvc.store.layout import Layout
from tests.ops.conftest import SETS, sound, state_bytes, write_batch
from tests.ops.launching import HERE, TORCHRUN, ended

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model, two batches, and `undisturbed` after them."""
    folder = tmp_path_factory.mktemp("launchers")
    init.init(folder / "model", str(tiny_base), sets=SETS)
    subprocess.run(["cp", "-a", folder / "model", folder / "undisturbed"], check=True)
    files = [write_batch(folder / f"day-{i}.jsonl", 16 * i, 16) for i in range(2)]
    results = list(train.train(Layout(folder / "undisturbed"), files, nproc=2))
    assert [each.commit.steps for each in results] == [4, 4]
    return folder


@pytest.fixture
def files(_made: Path) -> list[Path]:
    return [_made / f"day-{i}.jsonl" for i in range(2)]


@pytest.fixture
def at(_made: Path, tmp_path: Path) -> Layout:
    """The untrained model, this test's own, in a folder of its own."""
    (tmp_path / "owner").mkdir()
    subprocess.run(["cp", "-a", _made / "model", tmp_path / "owner" / "model"], check=True)
    return Layout(tmp_path / "owner" / "model")


def assert_trained_once(at: Layout, made: Path) -> None:
    assert state_bytes(at) == state_bytes(Layout(made / "undisturbed"))
    assert len(history.log(at.root, "HEAD")) == 3
    assert sound(at)


def test_torchrun_s_processes_train_file_after_file(
    at: Layout, files: list[Path], _made: Path
) -> None:
    code, said = ended(HERE.start(*TORCHRUN, "-m", "mvc", "train", *files, cwd=at.root))
    assert code == 0, said
    assert_trained_once(at, _made)
