"""`mvc train`: which batch a file is, what its commit holds, and where HEAD goes.

A file is known by content (Fixed 7); its commit holds what it was trained on and with; training
goes on from whatever HEAD is. What is refused is in test_train_refused.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from mvc.engine import rng
from mvc.errors import (
    DataError,
)
from mvc.ops import rollback, show, status, train
from mvc.store import pointers
from mvc.store.layout import Layout
from tests.ops.conftest import (
    Heard,
    Unmoved,
    adam_step,
    edit,
    git,
    sound,
    state_bytes,
    train_one,
    write_batch,
)
from tests.processes import in_process

# --- which batch is this ------------------------------------------------------------------------


def test_a_file_is_known_by_its_content(trained: Layout, batches: list[Path]) -> None:
    first = git(trained, "rev-parse", "HEAD~2")
    renamed = batches[0].rename(batches[0].with_name("renamed.jsonl"))
    with Unmoved(trained):
        result = train_one(trained, renamed)
    assert result.already
    assert (result.commit.commit, result.commit.batch) == (first, 1)


def test_again_trains_it_once_more(trained: Layout, batches: list[Path]) -> None:
    result = train_one(trained, batches[0], again=True)
    assert not result.already
    assert (result.commit.batch, result.commit.lifetime_step) == (4, 16)
    assert adam_step(trained) == 16
    assert train_one(trained, batches[0]).commit == result.commit


def test_a_changed_file_is_another_batch(trained: Layout, batches: list[Path]) -> None:
    batches[0].write_text(batches[0].read_text() + '{"text": "one more row"}\n')
    assert train_one(trained, batches[0]).commit.batch == 4


def test_a_rolled_away_batch_may_be_trained_again(trained: Layout, batches: list[Path]) -> None:
    old = state_bytes(trained)
    rollback.rollback(trained, "@2")
    assert train_one(trained, batches[1]).already
    result = train_one(trained, batches[2])
    assert not result.already
    assert (result.commit.batch, result.commit.lifetime_step) == (4, 12)
    assert state_bytes(trained) == old, "the same batch from the same state is the same state"


def test_several_files_in_one_call_equal_separate_calls(
    new_model: Callable[..., Layout], batches: list[Path]
) -> None:
    together, apart = new_model(name="together"), new_model(name="apart")
    results = list(train.train(together, batches))
    for path in batches:
        in_process(lambda path=path: train_one(apart, path))  # type: ignore[misc]
    assert [result.commit.batch for result in results] == [1, 2, 3]
    assert state_bytes(together) == state_bytes(apart)


def test_the_same_file_twice_in_one_call_is_trained_once(
    new_model: Callable[..., Layout], batches: list[Path]
) -> None:
    at = new_model()
    results = list(train.train(at, [batches[0], batches[0]]))
    assert [result.already for result in results] == [False, True]
    assert results[0].commit == results[1].commit


def test_a_bad_file_among_several_stops_all_of_them(
    trained: Layout, batches: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    with Unmoved(trained), pytest.raises(DataError):
        list(train.train(trained, [batches[0], bad], again=True))


def test_a_folder_is_a_batch(trained: Layout, tmp_path: Path) -> None:
    folder = tmp_path / "week"
    (folder / "sub").mkdir(parents=True)
    write_batch(folder / "a.jsonl", 40, 4)
    write_batch(folder / "sub" / "b.jsonl", 44, 4)
    result = train_one(trained, folder)
    assert result.commit.data is not None
    assert (result.commit.data.name, result.commit.data.rows) == ("week", 8)
    for name in ("a.jsonl", "sub/b.jsonl"):
        assert (trained.batch / "week" / name).read_bytes() == (folder / name).read_bytes()
    moved = folder.rename(tmp_path / "other-name")
    assert train_one(trained, moved).already


# --- what the commit holds ----------------------------------------------------------------------


def test_the_commit_holds_the_file_s_bytes_and_no_link_to_it(
    trained: Layout, tmp_path: Path
) -> None:
    path = write_batch(tmp_path / "new.jsonl", 50)
    content = path.read_bytes()
    train_one(trained, path)
    kept = trained.batch / "new.jsonl"
    assert kept.read_bytes() == content
    assert not kept.is_symlink()
    assert not kept.samefile(path)
    path.write_text("the user goes on writing here")
    assert kept.read_bytes() == content
    assert sound(trained)
    assert os.access(path, os.W_OK)


def test_training_never_writes_through_the_links(trained: Layout, batches: list[Path]) -> None:
    inodes = {path: path.stat().st_ino for path in trained.state.iterdir()}
    before = state_bytes(trained)
    objects = {p: p.read_bytes() for p in pointers.cache_folder(trained).rglob("*") if p.is_file()}
    assert objects
    train_one(trained, batches[0], again=True)
    assert state_bytes(trained) != before
    for path, content in objects.items():
        assert path.read_bytes() == content
        assert not path.stat().st_mode & 0o222
    changed = trained.state / "optimizer.pt"
    assert changed.stat().st_ino != inodes[changed]
    assert sound(trained)


def test_the_commit_says_what_it_was_trained_with(trained: Layout) -> None:
    told = show.show(trained).environment
    assert told["torch"] == torch.__version__
    assert (told["device"], told["dtype"], told["world_size"]) == ("cpu", "float32", 1)
    assert {"mvc", "python", "transformers", "peft", "trl", "accelerate", "threads"} <= told.keys()


def test_the_result_says_what_happened(trained: Layout, batches: list[Path]) -> None:
    result = train_one(trained, batches[0], again=True)
    commit = result.commit
    assert (commit.kind, commit.batch, commit.steps, commit.lifetime_step) == ("batch", 4, 4, 16)
    assert commit.commit == git(trained, "rev-parse", "HEAD")
    assert commit.data is not None
    assert commit.loss is not None
    assert commit.learning_rate is not None
    assert (commit.data.name, commit.data.rows) == ("day-0.jsonl", 8)
    assert len(commit.curve) == 4
    assert commit.learning_rate.last == 1e-2
    assert commit.message == (
        f"Batch 4: day-0.jsonl, loss {commit.loss.first:.2f} -> {commit.loss.last:.2f}"
    )
    assert result.branch == "main"
    assert result.tokens_per_s > 0
    assert result.peak_memory_bytes > 0
    assert not trained.run.exists() or status.status(trained).run is None


def test_a_message_cannot_forge_what_the_log_says(trained: Layout, batches: list[Path]) -> None:
    forged = "my words\n\nKind: init\nBatch: 99\nLoss-Last: 0.0\nData-MD5: " + "0" * 32
    result = train_one(trained, batches[0], again=True, message=forged)
    assert (result.commit.kind, result.commit.batch) == ("batch", 4)
    assert result.commit.loss is not None
    assert result.commit.loss.last > 1
    assert "my words" in result.commit.message
    trailers = git(trained, "log", "-1", "--format=%(trailers:key=Kind)%(trailers:key=Batch)")
    assert trailers.split() == ["Kind:", "batch", "Batch:", "4"]


# --- where HEAD is ------------------------------------------------------------------------------


def test_on_a_detached_head_a_branch_is_started_and_named(
    trained: Layout, batches: list[Path]
) -> None:
    from mvc.ops import checkout

    main = git(trained, "rev-parse", "main")
    names = []
    for _ in range(2):
        checkout.checkout(trained, "@1")
        heard = Heard()
        result = train_one(trained, batches[2], progress=heard)
        assert result.branch is not None
        assert any(result.branch in note for note in heard.notes)
        assert git(trained, "symbolic-ref", "--short", "HEAD") == result.branch
        assert result.commit.batch == 2
        names.append(result.branch)
        checkout.checkout(trained, "main")
    assert names == ["from-batch-1", "from-batch-1-2"]
    assert git(trained, "rev-parse", "main") == main


def test_a_commit_made_by_hand_between_two_batches_is_fine(
    trained: Layout, batches: list[Path]
) -> None:
    edit(trained, "train.learning_rate=5e-3")
    git(trained, "commit", "--quiet", "-am", "Halve the rate")
    result = train_one(trained, batches[0], again=True)
    assert (result.commit.batch, result.commit.lifetime_step) == (4, 16)
    assert adam_step(trained) == 16
    assert result.commit.learning_rate is not None
    assert result.commit.learning_rate.first == 5e-3
    assert sound(trained)


def test_after_a_git_revert_the_counters_are_those_of_the_state(
    trained: Layout, batches: list[Path]
) -> None:
    git(trained, "revert", "--no-edit", "HEAD")
    heard = Heard()
    result = train_one(trained, batches[2], again=True, progress=heard)
    assert any("brought back" in note for note in heard.notes)
    assert (result.commit.steps, result.commit.lifetime_step) == (4, 12)
    assert adam_step(trained) == 12


# --- a look ahead -------------------------------------------------------------------------------


def test_a_dry_run_says_what_the_batch_would_be_and_changes_nothing(
    trained: Layout, tmp_path: Path
) -> None:
    path = write_batch(tmp_path / "next.jsonl", 70)
    with Unmoved(trained):
        (plan,) = train.dry_run(trained, [path])
    result = train_one(trained, path)
    assert result.commit.data is not None
    assert plan.num_steps == result.commit.steps == 4
    assert plan.num_rows == result.commit.data.rows == 8
    assert plan.num_tokens == result.commit.data.tokens
    assert msgspec.structs.asdict(plan)["passes"] == 1


@pytest.mark.slow
def test_another_number_of_processes_is_said_in_the_commit(trained: Layout, tmp_path: Path) -> None:
    one, two = (write_batch(tmp_path / f"new-{i}.jsonl", 60 + 8 * i) for i in range(2))
    wide = train_one(trained, one, nproc=2)
    assert any("seeded anew for 2 processes" in text for text in wide.commit.warnings)
    assert (trained.state / "rng_state_1.pth").is_file()
    assert show.show(trained).environment["world_size"] == 2
    narrow = train_one(trained, two)
    assert any("seeded anew for 1 processes" in text for text in narrow.commit.warnings)
    assert not (trained.state / "rng_state_1.pth").exists()
    assert adam_step(trained) == 12 + wide.commit.steps + narrow.commit.steps


def test_a_gpu_that_the_state_does_not_know_is_seeded_by_step_and_rank(
    trained: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it every rank would go on with the one seed that the Trainer gives to all."""
    seeds: list[int] = []
    monkeypatch.setattr(rng, "restore", lambda states: False)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    first = train_one(trained, write_batch(tmp_path / "one.jsonl", 60))
    second = train_one(trained, write_batch(tmp_path / "two.jsonl", 68))
    assert len(set(seeds)) == 2
    for result in (first, second):
        assert any("none for this GPU" in text for text in result.commit.warnings)
