"""What `mvc train` refuses, and that a refusal changes nothing.

No state is trained on that does not fit (Fixed 2), no batch is recorded that did not learn, and
nothing that the user made is lost (Fixed 10): HEAD and the state are as before.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvc.errors import (
    ConfigError,
    EngineError,
    Interrupted,
    LockHeld,
    RepoError,
    StateError,
    TrainingFailed,
)
from mvc.ops import status
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from tests.ops.conftest import (
    Heard,
    Unmoved,
    adam_step,
    edit,
    git,
    state_bytes,
    train_one,
    write_batch,
)

# --- what is refused or kept --------------------------------------------------------------------


def test_an_edit_of_the_state_is_refused_and_kept(trained: Layout, batches: list[Path]) -> None:
    path = trained.state / "adapter_config.json"
    path.unlink()
    path.write_text("mine")
    (trained.state / "notes.txt").write_text("mine too")
    head = git(trained, "rev-parse", "HEAD")
    with pytest.raises(RepoError, match="stored nowhere else") as caught:
        train_one(trained, batches[0], again=True)
    assert "adapter_config.json" in caught.value.message
    assert "notes.txt" in caught.value.message
    assert "mvc checkout" in caught.value.hint
    assert path.read_text() == "mine"
    assert (trained.state / "notes.txt").read_text() == "mine too"
    assert git(trained, "rev-parse", "HEAD") == head


@pytest.mark.parametrize("what", ["one file", "the folder"])
def test_deleted_files_come_back(what: str, trained: Layout, batches: list[Path]) -> None:
    files = (
        list(trained.state.iterdir()) if what == "the folder" else [trained.state / "optimizer.pt"]
    )
    for path in files:
        path.unlink()
    if what == "the folder":
        trained.state.rmdir()
    train_one(trained, batches[0], again=True)
    assert adam_step(trained) == 16


def test_a_second_writer_is_told_who_holds_the_lock(trained: Layout, batches: list[Path]) -> None:
    with (
        Lock(trained, "mvc train other.jsonl"),
        Unmoved(trained),
        pytest.raises(LockHeld) as caught,
    ):
        train_one(trained, batches[0], again=True)
    assert "`mvc train other.jsonl`" in caught.value.message
    assert f"process {os.getpid()}" in caught.value.message
    assert not train_one(trained, batches[0], again=True).already


def test_a_dead_holder_does_not_block(trained: Layout, batches: list[Path]) -> None:
    child = os.fork()
    if not child:
        Lock(trained, "mvc train dead.jsonl").__enter__()
        os._exit(9)
    os.waitpid(child, 0)
    assert (trained.private / "lock.json").exists()
    assert not train_one(trained, batches[0], again=True).already


@pytest.mark.parametrize(
    "change",
    ["lora.r=8", "lora.alpha=64", "lora.use_dora=true", 'lora.target_modules=["q_proj"]'],
)
def test_another_lora_shape_is_refused_with_the_way_out(
    change: str, trained: Layout, batches: list[Path]
) -> None:
    edit(trained, change)
    with Unmoved(trained), pytest.raises(ConfigError, match="cannot change on a line") as caught:
        train_one(trained, batches[0], again=True)
    assert change.split("=")[0] in caught.value.message
    assert "mvc init" in caught.value.hint
    assert status.status(trained).run is None


def test_a_committed_change_of_the_lora_shape_is_refused_too(
    trained: Layout, batches: list[Path]
) -> None:
    """A commit by hand must not carry past the check what mvc.toml itself may not ask for."""
    edit(trained, "lora.r=8")
    git(trained, "commit", "--quiet", "-am", "Double the rank")
    with Unmoved(trained), pytest.raises((ConfigError, StateError)) as caught:
        train_one(trained, batches[0], again=True)
    assert "mvc.toml" in caught.value.hint or "[lora]" in caught.value.hint


@pytest.mark.parametrize("number", [1, 2], ids=["first batch", "later batch"])
def test_a_batch_that_does_not_learn_is_thrown_away(
    number: int,
    new_model: Callable[..., Layout],
    batches: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = new_model()
    for path in batches[: number - 1]:
        train_one(at, path)
    with Unmoved(at), monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
        with pytest.raises(TrainingFailed) as caught:
            train_one(at, batches[number - 1])
    assert "nothing was recorded" in caught.value.hint
    assert status.status(at).run is None
    assert train_one(at, batches[number - 1]).commit.steps == 4


def test_a_rate_of_zero_at_every_step_is_no_batch(
    new_model: Callable[..., Layout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever made the rate 0, the batch is not recorded as if it had learned."""
    from mvc.engine import schedule

    real = schedule.build

    def run_out(*args: Any) -> Any:
        scheduler = real(*args)
        scheduler.base_lrs = [0.0 for _ in scheduler.base_lrs]
        for group in scheduler.optimizer.param_groups:
            group["lr"] = 0.0
        return scheduler

    monkeypatch.setattr(schedule, "build", run_out)
    at = new_model()
    with Unmoved(at), pytest.raises(TrainingFailed, match="the learning rate was 0"):
        train_one(at, write_batch(tmp_path / "rows.jsonl", 0))


def test_one_step_of_a_warm_up_is_refused_before_it_runs(
    new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    at = new_model()
    path = write_batch(tmp_path / "two-rows.jsonl", 0, 2)
    with Unmoved(at), pytest.raises(ConfigError, match="begins at rate 0") as refused:
        train_one(at, path)
    assert "warmup_steps = 0" in refused.value.hint


def test_weights_that_are_no_number_are_no_batch(
    new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    """The loss of the last step was fine; what it did to the weights was not."""
    sets = ["train.warmup_steps=0", "train.learning_rate=1e30", "train.weight_decay=1e20"]
    at = new_model(*sets)
    path = write_batch(tmp_path / "two-rows.jsonl", 0, 2)
    with Unmoved(at), pytest.raises(TrainingFailed, match="became infinite or no number"):
        train_one(at, path)


def test_a_loss_that_is_no_number_is_no_batch(
    trained: Layout, batches: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mvc.engine.trainer import BatchTrainer

    real = BatchTrainer.compute_loss

    def broken(self: BatchTrainer, *args: object, **kwargs: object) -> object:
        return real(self, *args, **kwargs) * float("nan")

    with Unmoved(trained), monkeypatch.context() as patch:
        patch.setattr(BatchTrainer, "compute_loss", broken)
        with pytest.raises(TrainingFailed, match="became nan at step 1"):
            train_one(trained, batches[0], again=True)


def test_what_breaks_off_in_torch_is_an_engine_error(
    trained: Layout, batches: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mvc.engine.trainer import BatchTrainer

    def broken(*args: object, **kwargs: object) -> object:
        raise RuntimeError("mat1 and mat2 cannot be multiplied")

    with Unmoved(trained), monkeypatch.context() as patch:
        patch.setattr(BatchTrainer, "compute_loss", broken)
        with pytest.raises(EngineError, match="mat1 and mat2") as caught:
            train_one(trained, batches[0], again=True)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert train_one(trained, batches[0], again=True).commit.batch == 4


def test_a_stop_keeps_the_steps_and_the_way_back(
    new_model: Callable[..., Layout], batches: list[Path]
) -> None:
    stopped, undisturbed = new_model(name="stopped"), new_model(name="undisturbed")
    with Unmoved(stopped), pytest.raises(Interrupted) as caught:
        train_one(stopped, batches[0], should_stop=lambda: True)
    assert f"mvc train {batches[0]}" in caught.value.hint
    run = status.status(stopped).run
    assert run is not None
    assert (run.data_name, run.step, run.live) == ("day-0.jsonl", 1, False)

    with Unmoved(stopped), pytest.raises(RepoError, match="is in progress at step 1") as refused:
        train_one(stopped, batches[1])
    assert "--restart" in refused.value.hint

    heard = Heard()
    train_one(stopped, batches[0], progress=heard)
    assert heard.starts == [("day-0.jsonl", 4, 1)]
    train_one(undisturbed, batches[0])
    assert state_bytes(stopped) == state_bytes(undisturbed)


def test_restart_throws_the_steps_away(trained: Layout, tmp_path: Path) -> None:
    one, two = (write_batch(tmp_path / f"new-{i}.jsonl", 60 + 8 * i) for i in range(2))
    with pytest.raises(Interrupted):
        train_one(trained, one, should_stop=lambda: True)
    heard = Heard()
    train_one(trained, two, restart=True, progress=heard)
    assert heard.starts == [("new-1.jsonl", 4, 0)]
    assert status.status(trained).run is None


# --- a state that cannot be trained on ----------------------------------------------------------


class Bait:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def commit_by_hand(at: Layout, name: str, content: bytes | None) -> None:
    """Replace or remove a file of the state and commit that with plain DVC and git."""
    (at.state / name).unlink()
    if content is not None:
        (at.state / name).write_bytes(content)
    from dvc.repo import Repo

    with Repo(str(at.root)) as repo:
        repo.add(str(at.state))
    # DVC keeps our meta, which vouches for the old files: a manifest that lies is refused before.
    pointer = at.root / "current_model.dvc"
    pointer.write_text(pointer.read_text().partition("meta:")[0])
    git(at, "commit", "--quiet", "-am", f"Change {name}")


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        "optimizer_parameters.json",
        "adapter_model.safetensors",
        "adapter_config.json",
    ],
)
def test_a_state_without_a_part_is_an_error_and_not_a_fresh_start(
    name: str, trained: Layout, batches: list[Path]
) -> None:
    commit_by_hand(trained, name, None)
    with Unmoved(trained), pytest.raises(StateError) as caught:
        train_one(trained, batches[0], again=True)
    assert name in caught.value.message
    assert "mvc checkout" in caught.value.hint
    assert status.status(trained).run is None


def test_permuted_parameters_are_an_error(trained: Layout, batches: list[Path]) -> None:
    path = trained.state / "optimizer_parameters.json"
    told = json.loads(path.read_text())
    told["groups"][0][:2] = reversed(told["groups"][0][:2])
    commit_by_hand(trained, path.name, json.dumps(told).encode())
    with Unmoved(trained), pytest.raises(StateError, match="the moments belong to"):
        train_one(trained, batches[0], again=True)


def test_code_in_optimizer_pt_is_refused_and_not_run(
    trained: Layout, batches: list[Path], tmp_path: Path
) -> None:
    bait, ran = tmp_path / "bait.pt", tmp_path / "ran"
    torch.save({"state": Bait(ran), "param_groups": []}, bait)
    commit_by_hand(trained, "optimizer.pt", bait.read_bytes())
    with Unmoved(trained), pytest.raises(StateError, match=r"optimizer\.pt"):
        train_one(trained, batches[0], again=True)
    assert not ran.exists()
    torch.load(bait, weights_only=False)
    assert ran.exists(), "the bait must be able to bite"


def test_a_missing_random_state_is_seeded_anew_and_said(
    trained: Layout, batches: list[Path]
) -> None:
    commit_by_hand(trained, "rng_state.pth", None)
    heard = Heard()
    result = train_one(trained, batches[0], again=True, progress=heard)
    assert any("random state seeded anew" in warning for warning in result.commit.warnings)
    assert any("random state seeded anew" in note for note in heard.notes)


def test_a_repo_without_a_commit_is_refused(tmp_path: Path, trained: Layout) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["git", "init", "-q", bare], check=True)
    (bare / "mvc.toml").write_bytes(trained.config.read_bytes())
    with pytest.raises(RepoError, match="has no commit yet"):
        train_one(Layout(bare), write_batch(tmp_path / "x.jsonl", 0))
