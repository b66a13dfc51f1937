"""Joining what somebody else launched: torchrun, Slurm's srun, Ray Train."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mvc
from mvc.errors import RepoError
from mvc.ops import init, train
from mvc.store import history
from mvc.store.layout import Layout
from tests.ops.conftest import SETS, write_batch
from tests.ops.launching import (
    HERE,
    MVC,
    TORCHRUN,
    assert_trained_once,
    ended,
    owned,
    srun,
    step,
    two_machines,
)
from tests.ops.under_ray import LOOPS

pytestmark = pytest.mark.slow
RAY_S = 180
no_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs `pip install ray`")


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
    return owned(_made / "model", tmp_path)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["imitated", pytest.param("ray", marks=no_ray)])
def test_workers_of_ray_train(
    at: Layout, files: list[Path], _made: Path, how: str, loop: str
) -> None:
    """With Ray itself where it is installed, which CI is spared (`tests.ops.under_ray`)."""
    command = [sys.executable, "-m", "tests.ops.under_ray", how, loop, at.root, *files]
    # its workers start elsewhere
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, check=True, timeout=RAY_S, env=env)
    assert_trained_once(at, Layout(_made / "undisturbed"), 2)


def test_torchrun_s_processes_train_file_after_file(
    at: Layout, files: list[Path], _made: Path
) -> None:
    code, said = ended(HERE.start(*TORCHRUN, "-m", "mvc", "train", *files, cwd=at.root))
    assert code == 0, said
    assert_trained_once(at, Layout(_made / "undisturbed"), 2)


def test_a_step_of_srun_finds_together(
    at: Layout, files: list[Path], _made: Path, tmp_path: Path
) -> None:
    """On two machines, the first of which finds its own name at its loopback."""
    with two_machines(hidden=at.root.parent) as machines:
        running = srun(at.root, files, tmp_path / "elsewhere", machines)
        done = [ended(each) for each in running]
    assert [code for code, _ in done] == [0, 0], done
    assert_trained_once(at, Layout(_made / "undisturbed"), 2)


def test_tasks_in_repos_of_their_own_are_refused(
    at: Layout, files: list[Path], tmp_path: Path
) -> None:
    """Who means a training in each must not find one trained, and the others silent."""
    other = Layout(tmp_path / "other")
    subprocess.run(["cp", "-a", at.root, other.root], check=True)
    (first, said), (second, own) = map(ended, srun(at.root, files, other.root))
    assert first == second == 1, (said, own)
    for text in (said, own):
        assert f"{other.root} is another model repo than process 0's, {at.root}" in text
        assert "srun's tasks take `--node-rank 0`" in text
    assert [len(history.log(each.root, "HEAD")) for each in (at, other)] == [1, 1]


def test_a_task_may_train_for_itself_and_other_verbs_do_not_join(
    at: Layout, files: list[Path]
) -> None:
    told = step([HERE, HERE])[1]
    alone = HERE.start(*MVC, "train", "--node-rank", 0, files[0], cwd=at.root, **told)
    assert ended(alone)[0] == 0
    code, said = ended(HERE.start(*MVC, "log", cwd=at.root, **told))
    assert code == 0 and "@1" in said, said


def test_what_trains_along_needs_no_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert mvc.open(tmp_path / "no-repo").layout.root == tmp_path / "no-repo"
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RepoError):
        mvc.open(tmp_path / "no-repo")
