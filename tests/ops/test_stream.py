"""The daemon's way of training: to the bit what one `mvc train` a file makes of the same files."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvc.engine import base as bases
from mvc.engine import files, trainer
from mvc.errors import DiskFull, Interrupted, TrainingFailed
from mvc.ops import log, run, stream
from mvc.store import promote
from mvc.store.layout import Layout
from mvc.store.lock import Line, Lock
from mvc.types import CurvePoint
from tests.ops.conftest import Heard, git, sound, state_bytes, states, train_one, write_batch
from tests.ops.test_exact import CASES

BF16 = {"bf16": (["train.precision=bf16"], {})}


@pytest.mark.parametrize("case", [*CASES, *BF16])
def test_a_stream_commits_the_bits_of_one_process_after_another(
    case: str, new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    paths = [write_batch(tmp_path / f"day-{i}.jsonl", 8 * i) for i in range(3)]
    sets = [*(CASES | BF16)[case][0], "train.checkpoint_steps=1"]
    one, other = new_model(*sets, name="one"), new_model(*sets, name="other")
    for path in paths:
        train_one(one, path)
    with Line(other, "mvc watch"):
        line = stream.Stream(other, "mvc watch")
        line.open()
        for i, path in enumerate(paths):
            for ahead in paths[i + 1 : i + 2]:
                line.read_ahead(ahead)
            line.train(files.identify(path))
        line.close()
    assert state_bytes(one) == state_bytes(other)
    assert states(one) == states(other)
    assert sound(other)
    assert not other.run.exists() and not other.flight.exists()


def test_a_trainer_goes_on_only_with_the_settings_and_the_state_that_it_was_built_for(
    new_model: Callable[..., Layout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_batch(tmp_path / f"day-{i}.jsonl", 8 * i) for i in range(6)]
    bad = files.identify(write_batch(tmp_path / "bad.jsonl", 70))
    changes = {
        2: ("learning_rate = 0.01", "learning_rate = 0.02"),
        3: ("dropout = 0.1", "dropout = 0.5"),
    }
    one, other = new_model(name="one"), new_model(name="other")
    built: list[int] = []
    refs: list[weakref.ref[Any]] = []

    def change(at: Layout, number: int) -> None:
        text = at.config.read_text()
        old, new = changes.get(number, ("", ""))
        assert old in text
        at.config.write_text(text.replace(old, new))

    def refuse(curve: tuple[CurvePoint, ...]) -> None:
        raise TrainingFailed("no", "look")

    for number, path in enumerate(paths):
        change(one, number)
        train_one(one, path)
    init = trainer.BatchTrainer.__init__

    def counted(self: Any, *args: Any, **words: Any) -> None:
        built.append(number)
        refs.append(weakref.ref(self))
        init(self, *args, **words)

    monkeypatch.setattr(trainer.BatchTrainer, "__init__", counted)
    with Line(other, "mvc watch"):
        line = stream.Stream(other, "mvc watch")
        line.open()
        for number, path in enumerate(paths):
            change(other, number)
            if number == 4:
                gc.collect()
                assert [ref() is not None for ref in refs] == [False, False, True]
                with pytest.raises(TrainingFailed, match="no"):
                    line.train(bad, check=refuse)
            if number == 5:  # as the daemon does after a pause
                line.drain()
                line.open()
                assert refs[-1]() is None
            line.train(files.identify(path))
        line.close()
    assert built == [0, 2, 3, 4, 5]
    assert state_bytes(one) == state_bytes(other)
    assert states(one) == states(other)


def test_a_batch_that_is_refused_leaves_the_line_as_before_it(
    at: Layout, batches: list[Path], alone: list[str]
) -> None:
    def refuse(curve: tuple[CurvePoint, ...]) -> None:
        raise TrainingFailed("no", "look")

    line = stream.Stream(at, "test")
    line.open()
    line.train(files.identify(batches[0]))
    bad = files.identify(write_batch(batches[0].with_name("bad.jsonl"), 70))
    with pytest.raises(TrainingFailed, match="no"):
        line.train(bad, check=refuse)
    assert line.culprit == bad
    for path in batches[1:]:
        line.train(files.identify(path))
    line.close()
    assert states(at) == alone
    assert sound(at)


def test_a_commit_that_fails_takes_the_batch_on_top_of_it_back_too(
    at: Layout, batches: list[Path], alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]
    real = stream.batch.commit

    def commit(*args: object, **kwargs: object) -> object:
        if full and len(states(at)) == 2:
            full.pop()
            raise DiskFull("no space is left", "free some")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(stream.batch, "commit", commit)
    data = [files.identify(path) for path in batches]
    line = stream.Stream(at, "test")
    line.open()
    line.train(data[0])
    line.train(data[1])
    with pytest.raises(DiskFull):
        line.train(data[2])
    assert line.culprit == data[1]
    assert run.interrupted(at) == data[1].path.resolve()
    heard = Heard()
    line.progress = heard
    assert line.known(data[1].md5) is None
    line.train(data[1])
    assert heard.starts == []  # its last checkpoint is whole: nothing is trained again
    line.train(data[2])
    line.close()
    assert states(at) == alone
    assert sound(at)


def test_a_stop_keeps_the_checkpoint_and_the_commit_before_it(
    at: Layout, batches: list[Path], alone: list[str]
) -> None:
    steps = [0]

    def stop() -> bool:
        steps[0] += 1
        return steps[0] == 6

    line = stream.Stream(at, "test", should_stop=stop)
    line.open()
    line.train(files.identify(batches[0]))
    with pytest.raises(Interrupted):
        line.train(files.identify(batches[1]))
    line.close()
    assert states(at) == alone[:2]
    for path in batches[1:]:  # any way of training goes on from there
        train_one(at, path)
    assert states(at) == alone


def test_what_a_killed_process_left_in_flight_is_gone_on_with(
    at: Layout, batches: list[Path], alone: list[str]
) -> None:
    train_one(at, batches[0])
    steps = [0]

    def stop() -> bool:
        steps[0] += 1
        return steps[0] == 2

    with pytest.raises(Interrupted):
        train_one(at, batches[1], should_stop=stop)
    run.fly(at)  # as a process leaves it that is killed while it commits and trains the next
    at.run.mkdir()
    (at.run / "run.json").write_text("{}")
    heard = Heard()
    line = stream.Stream(at, "test", progress=heard)
    line.open()
    for path in batches[1:]:
        line.train(files.identify(path))
    line.close()
    assert heard.starts[0] == (batches[1].name, 4, 2)
    assert states(at) == alone


def test_a_commit_by_hand_meanwhile_becomes_the_parent(
    at: Layout, batches: list[Path], alone: list[str]
) -> None:
    line = stream.Stream(at, "test")
    line.open()
    line.train(files.identify(batches[0]))
    line.drain()
    at.config.write_text(at.config.read_text() + "# a remark\n")
    git(at, "commit", "-qam", "A remark in mvc.toml")
    for path in batches[1:]:
        line.train(files.identify(path))
    line.close()
    assert states(at)[:2] + states(at)[3:] == alone
    assert [each.kind for each in log.log(at)] == ["batch", "batch", "other", "batch", "init"]
    assert git(at, "status", "--porcelain") == ""


def test_a_commit_that_fails_after_the_ref_moved_is_finished_and_not_made_twice(
    at: Layout, batches: list[Path], alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]
    real = promote.settle

    def settle(*args: object, **kwargs: object) -> object:
        if full and len(states(at)) == 3:
            full.pop()
            raise DiskFull("no space is left", "free some")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(promote, "settle", settle)
    data = [files.identify(path) for path in batches]
    line = stream.Stream(at, "test")
    line.open()
    line.train(data[0])
    line.train(data[1])
    with pytest.raises(DiskFull):
        line.train(data[2])
    assert line.culprit == data[1]
    assert line.known(data[1].md5) is not None
    line.train(data[2])
    line.close()
    assert states(at) == alone
    assert sound(at)


def test_an_error_between_two_batches_trains_none_of_them_twice(
    at: Layout, batches: list[Path], alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]
    real = run.fly

    def fly(layout: Layout) -> None:
        real(layout)
        if broken and len(states(at)) == 2:
            broken.pop()
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(run, "fly", fly)
    data = [files.identify(path) for path in batches]
    line = stream.Stream(at, "test")
    line.open()
    line.train(data[0])
    with pytest.raises(OSError, match="Input/output"):
        line.train(data[1])
    for each in data[1:]:
        assert line.known(each.md5) is None
        line.train(each)
    line.close()
    assert states(at) == alone
    assert sound(at)


def test_a_copy_of_a_batch_whose_commit_failed_is_no_dead_end(
    at: Layout, batches: list[Path], alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]
    real = stream.batch.commit

    def commit(*args: object, **kwargs: object) -> object:
        if full:
            full.pop()
            raise DiskFull("no space is left", "free some")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(stream.batch, "commit", commit)
    first = files.identify(batches[0])
    line = stream.Stream(at, "test")
    line.open()
    line.train(first)
    with pytest.raises(DiskFull):
        line.known(first.md5)
    assert line.known(first.md5) is None
    for path in batches:
        line.train(files.identify(path))
    line.close()
    assert states(at) == alone


def while_it_trains(line: stream.Stream, step: int, act: Callable[[], object]) -> None:
    """Have something done when the stream has made that many steps."""
    seen = [0]

    def stepped() -> None:
        seen[0] += 1
        if seen[0] == step:
            act()

    line._stepped = stepped


@pytest.mark.parametrize(("change", "kept"), [("learning_rate = 0.0005", True), ("r = 2", False)])
def test_what_is_committed_of_mvc_toml_while_a_batch_trains_is_not_taken_back(
    at: Layout, batches: list[Path], change: str, kept: bool
) -> None:
    before = at.config.read_text()
    key = change.split()[0]
    (old,) = (each for each in before.splitlines() if each.startswith(f"{key} = "))

    def commit() -> None:
        at.config.write_text(before.replace(f"\n{old}\n", f"\n{change}\n"))
        git(at, "commit", "-qam", "By hand")

    line = stream.Stream(at, "test")
    while_it_trains(line, 2, commit)
    line.open()
    line.train(files.identify(batches[0]))
    line.drain()
    # What no line allows is in the history and nowhere else: the next batch must be trained.
    wanted = before.replace(f"\n{old}\n", f"\n{change}\n") if kept else before
    assert git(at, "show", "HEAD:mvc.toml") == at.config.read_text().strip() == wanted.strip()
    assert git(at, "status", "--porcelain") == ""
    line.train(files.identify(batches[1]))
    line.close()
    assert [each.kind for each in log.log(at)] == ["batch", "batch", "other", "init"]
    (rate,) = {each.learning_rate.last for each in log.log(at)[:1] if each.learning_rate}
    assert rate == (0.0005 if kept else 0.01)
    assert sound(at)


def test_of_a_base_whose_batch_failed_nothing_is_left_when_it_is_loaded_anew(
    at: Layout, batches: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two of them at once may be more than the device holds.
    loaded: list[weakref.ref[Any]] = []
    alive: list[int] = []
    real = bases.load_model

    def load_model(*args: Any, **kwargs: Any) -> Any:
        alive.append(sum(each() is not None for each in loaded))
        model = real(*args, **kwargs)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(bases, "load_model", load_model)
    line = stream.Stream(at, "test")
    line.open()

    def fail() -> None:
        raise TrainingFailed("no", "look")

    while_it_trains(line, 2, fail)
    gc.disable()  # it may come by itself, or not
    try:
        with pytest.raises(TrainingFailed):
            line.train(files.identify(batches[0]))
        line.train(files.identify(batches[1]))
    finally:
        gc.enable()
    line.close()
    assert alive == [0, 0]


def test_a_commit_waits_for_another_writer_as_long_as_that_lives_and_says_so(
    at: Layout, batches: list[Path], alone: list[str]
) -> None:
    heard, waited = Heard(), threading.Event()
    line = stream.Stream(at, "test", progress=heard, waiting=waited.set)
    line.open()
    line.train(files.identify(batches[0]))
    line.drain()
    waited.clear()
    with Lock(at, "mvc fetch"):
        line.train(files.identify(batches[1]))
        assert waited.wait(60)
    line.train(files.identify(batches[2]))
    line.close()
    (told,) = (note for note in heard.notes if "Waiting" in note)
    assert "`mvc fetch`" in told
    assert states(at) == alone
