"""An interrupted batch stays what it was: other verbs leave it alone, its hint goes on with it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from mvc.errors import Interrupted, RepoError
from mvc.ops import rollback, status
from mvc.store import history
from mvc.store.layout import Layout
from tests.ops.conftest import state_bytes, train_one

NewModel = Callable[..., Layout]


def interrupt(at: Layout, path: Path, after: int = 2, **options: object) -> Interrupted:
    """Train `path` and stop after a few steps."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= after

    with pytest.raises(Interrupted) as stopped:
        train_one(at, path, should_stop=should_stop, **options)
    return stopped.value


def follow(at: Layout, hint: str) -> object:
    """Do what a hint says: the arguments of its `mvc train`."""
    found = re.search(r"`(mvc train [^`]*)`", hint)
    assert found, hint
    words = shlex.split(found[1])[2:]
    return train_one(at, Path(words[-1]), again="--again" in words)


def test_a_rollback_leaves_the_batch_in_progress(new_model: NewModel, batches: list[Path]) -> None:
    at = new_model()
    train_one(at, batches[0])
    interrupt(at, batches[1])
    rollback.rollback(at, "@0")
    run = status.status(at).run
    assert run is not None and (run.data_name, run.step) == (batches[1].name, 2)
    with pytest.raises(RepoError, match="in progress at step 2 on commit"):
        train_one(at, batches[1])


def test_again_is_gone_on_with_by_its_own_hint(new_model: NewModel, batches: list[Path]) -> None:
    undisturbed, at = new_model(name="undisturbed"), new_model()
    for each in (undisturbed, at):
        train_one(each, batches[0])
    train_one(undisturbed, batches[0], again=True, message="a second look")
    stopped = interrupt(at, batches[0], again=True, message="a second look")
    assert "--again" in stopped.hint
    with pytest.raises(RepoError) as refused:
        train_one(at, batches[1])
    assert "--again" in refused.value.hint
    follow(at, refused.value.hint)
    assert state_bytes(at) == state_bytes(undisturbed)
    assert "a second look" in history.commit(at.root).message


def test_the_same_command_without_again_goes_on_too(
    new_model: NewModel, batches: list[Path]
) -> None:
    """A batch that was begun on purpose is not "in the line already"."""
    at = new_model()
    train_one(at, batches[0])
    interrupt(at, batches[0], again=True)
    result = train_one(at, batches[0])
    assert not result.already and result.commit.batch == 2


def test_what_changes_no_bit_of_the_batch_does_not_orphan_it(
    new_model: NewModel, batches: list[Path]
) -> None:
    at = new_model()
    interrupt(at, batches[0])
    text = at.config.read_text()
    at.config.write_text(
        text.replace('at = "03:00"', 'at = "04:00"').replace(
            "checkpoint_steps = 50", "checkpoint_steps = 7"
        )
    )
    assert train_one(at, batches[0]).commit.steps == 4


@pytest.mark.slow
def test_two_processes_run_no_code_that_lies_in_the_repo(
    new_model: NewModel, batches: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = new_model()
    marker = at.root.parent / "ran"
    (at.root / "accelerate.py").write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit\n")
    monkeypatch.chdir(at.root)
    assert train_one(at, batches[0], nproc=2).commit.steps == 2
    assert not marker.exists()
