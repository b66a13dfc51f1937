"""The guards, with real causes: what is bad is set aside or waited for, and the line goes on."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvc.daemon import guards, loop
from mvc.daemon.calendar import Calendar
from mvc.engine.trainer import BatchTrainer
from mvc.errors import BaseModelError, ConfigError, DiskFull, Interrupted, LockHeld
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import CurvePoint
from tests.daemon.conftest import QUICK, batches_of, done, failed, fill, rows, state, until
from tests.ops.conftest import edit, sound, states, train_one, write_batch


def why(inbox: Path, name: str) -> str:
    (text,) = [p for p in (inbox / "failed").iterdir() if p.name.startswith(name + ".why")]
    return text.read_text()


def test_what_can_be_no_batch_is_set_aside_with_the_reason_and_the_next_goes_on(
    at: Layout, inbox: Path
) -> None:
    names = [path.name for path in fill(inbox, 3)]
    (inbox / "day-000a.jsonl").write_text("{broken\n")
    (inbox / "day-001a.jsonl").write_bytes(b"\xff\xfe\x00")
    (inbox / "day-001b.jsonl").write_text("")
    (inbox / "day-001c.png").write_bytes(b"\x89PNG")
    loop.run(at, inbox, once=True)
    assert done(inbox) == names
    assert len([name for name in failed(inbox) if ".why" not in name]) == 4
    assert "day-000a.jsonl, line 1" in why(inbox, "day-000a.jsonl")
    assert sound(at)


def test_a_duplicate_is_moved_and_not_trained_again(at: Layout, inbox: Path) -> None:
    first, _ = fill(inbox, 2)
    shutil.copy(first, inbox / "day-009-again.jsonl")
    loop.run(at, inbox, once=True)
    assert len(batches_of(at)) == 2
    assert "day-009-again.jsonl" in done(inbox)


def test_a_half_written_file_is_left_alone(at: Layout, inbox: Path) -> None:
    edit(at, "watch.settle_seconds=1.0")
    whole = fill(inbox, 1)
    half = inbox / "day-000-half.jsonl"
    stop = threading.Event()

    def write() -> None:
        with half.open("w") as file:
            while not stop.wait(0.1):
                file.write(json.dumps({"text": "more and more of it"}) + "\n")
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    asked: list[float] = []
    begun = time.monotonic()

    def enough() -> bool:
        asked.append(time.monotonic())
        return time.monotonic() - begun > 4

    loop.run(at, inbox, should_stop=enough)
    stop.set()
    writer.join()
    assert [each.data.name for each in batches_of(at) if each.data] == [whole[0].name]
    assert half.exists()
    loop.run(at, inbox, once=True)
    assert done(inbox) == [half.name, whole[0].name]


def test_a_loss_that_is_no_number_undoes_the_batch(
    at: Layout, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real NaN in a weight, as an overflow leaves it.
    fill(inbox, 3)
    real = BatchTrainer.training_step

    def training_step(self: BatchTrainer, model: torch.nn.Module, *args: object) -> torch.Tensor:
        if self.batch.job.data_name == "day-001.jsonl" and self.batch.done == 1:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
        return real(self, model, *args)

    monkeypatch.setattr(BatchTrainer, "training_step", training_step)
    loop.run(at, inbox, once=True)
    assert [each.data.name for each in batches_of(at) if each.data] == [
        "day-000.jsonl",
        "day-002.jsonl",
    ]
    assert "nan" in why(inbox, "day-001.jsonl")
    assert any("day-001.jsonl" in path.read_text() for path in at.logs.iterdir())
    assert sound(at)


def test_a_loss_that_explodes_undoes_the_batch(
    new_model: Callable[..., Layout], inbox: Path
) -> None:
    # With a head that learns, a rate that is far too high drives the loss up, and all stays finite.
    at = new_model(*QUICK, 'lora.modules_to_save=["lm_head"]')
    fill(inbox, 2, num_rows=8)
    loop.run(at, inbox, once=True)
    before = states(at)
    edit(at, "train.learning_rate=1.0")
    fill(inbox, 1, num_rows=8, first=2)
    loop.run(at, inbox, once=True)
    assert states(at) == before
    assert "exploded" in why(inbox, "day-002.jsonl")
    edit(at, "train.learning_rate=0.01")
    fill(inbox, 1, num_rows=8, first=3)
    loop.run(at, inbox, once=True)
    assert len(batches_of(at)) == 3
    assert sound(at)


def test_out_of_memory_is_tried_once_more_in_halves(
    at: Layout, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(inbox, 2)
    real = BatchTrainer.training_step

    def training_step(self: BatchTrainer, model: torch.nn.Module, *args: object) -> torch.Tensor:
        name, size = self.batch.job.data_name, self.batch.train.micro_batch_size
        if name == "day-000.jsonl" and size == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(self, model, *args)

    monkeypatch.setattr(BatchTrainer, "training_step", training_step)
    loop.run(at, inbox, once=True)
    first, second = batches_of(at)
    assert "Out of memory with micro-batches of 2: trained with 1" in first.message
    assert (first.steps, second.steps) == (2, 2)
    assert "Out of memory" not in second.message
    assert done(inbox) == ["day-000.jsonl", "day-001.jsonl"]


def test_a_full_disk_is_waited_for(
    at: Layout,
    inbox: Path,
    daemon: Callable[[], threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = threading.Event()
    full.set()
    real = shutil.disk_usage

    def usage(path: object) -> object:
        found = real(path)  # type: ignore[arg-type]
        return found._replace(free=10**8) if full.is_set() else found

    edit(at, "watch.min_free_gb=1.0")
    monkeypatch.setattr(guards.shutil, "disk_usage", usage)
    fill(inbox, 1)
    daemon()
    until(lambda: state(at) == "waiting for disk")
    assert batches_of(at) == []
    full.clear()
    until(lambda: len(batches_of(at)) == 1)


def test_a_base_that_is_gone_is_waited_for_and_nothing_is_set_aside(
    at: Layout,
    inbox: Path,
    daemon: Callable[[], threading.Thread],
    tmp_path: Path,
    tiny_base: Path,
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    edit(at, f"base.model={base}")
    hidden = base.rename(tmp_path / "hidden")
    fill(inbox, 2)
    with pytest.raises(BaseModelError):
        loop.run(at, inbox, once=True)
    daemon()
    until(lambda: state(at) == "waiting")
    assert not (inbox / "failed").exists() or failed(inbox) == []
    hidden.rename(base)
    until(lambda: len(batches_of(at)) == 2)


def test_another_writer_is_waited_for(at: Layout, inbox: Path) -> None:
    fill(inbox, 2)
    held = Lock(at, "mvc push")
    held.__enter__()
    timer = threading.Timer(2, held.__exit__, (None, None, None))
    timer.start()
    loop.run(at, inbox, once=True)
    timer.join()
    assert len(batches_of(at)) == 2


def test_a_repo_that_another_command_trains_on_is_refused(at: Layout, inbox: Path) -> None:
    with Lock(at, "mvc train x", moves=True), pytest.raises(LockHeld, match="mvc train x"):
        loop.run(at, inbox, once=True)


def point(loss: float) -> CurvePoint:
    return CurvePoint(step=1, lifetime_step=1, loss=loss, learning_rate=1e-3, grad_norm=None)


@pytest.mark.parametrize(
    ("losses", "recent", "explodes"),
    [
        ([2.0, 2.1, 5.0, 6.0], [2.0], True),
        ([2.0, 1.9, 1.8, 1.7], [2.0], False),
        ([6.0, 5.0, 4.0, 3.0], [1.0], False),  # new data: high, but falling
        ([0.01, 0.01, 0.02, 0.05], [0.01], False),  # noise near 0
        ([2.0], [0.5], False),
        ([1.0, 1.0, 1.0, 3.9], [], True),
        ([1.0, 1.0, 1.0, 3.9], [2.0], False),
    ],
)
def test_what_explodes(losses: list[float], recent: list[float], explodes: bool) -> None:
    curve = [point(loss) for loss in losses]
    if explodes:
        with pytest.raises(guards.TrainingFailed, match="exploded"):
            guards.check_loss(curve, recent, 2.0, "x")
    else:
        guards.check_loss(curve, recent, 2.0, "x")
    guards.check_loss(curve, recent, 0, "x")


def test_mvc_toml_that_is_gone_for_a_moment_is_waited_for(
    at: Layout, inbox: Path, daemon: Callable[[], threading.Thread]
) -> None:
    daemon()
    until(lambda: state(at) == "idle")
    text = at.config.read_bytes()
    at.config.unlink()
    until(lambda: state(at) == "waiting")
    at.config.write_bytes(text)
    fill(inbox, 1)
    until(lambda: len(batches_of(at)) == 1)


def begin_by_hand(at: Layout, path: Path) -> None:
    """`mvc train` of a file, interrupted after its second step."""
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] == 2

    with pytest.raises(Interrupted):
        train_one(at, path, should_stop=stop)


def test_a_batch_that_somebody_else_began_is_not_theirs_to_move(
    at: Layout, inbox: Path, tmp_path: Path
) -> None:
    mine = write_batch(tmp_path / "mine.jsonl", 70)
    begin_by_hand(at, mine)
    fill(inbox, 1)
    loop.run(at, inbox, once=True)
    assert mine.exists()
    assert [each.data.name for each in batches_of(at) if each.data] == ["day-000.jsonl"]


@pytest.mark.parametrize("name", ["failed/x.jsonl", ".x.jsonl", "below/x.jsonl"])
def test_a_batch_in_progress_that_no_inbox_ever_offers_is_not_waited_for(
    name: str, at: Layout, inbox: Path
) -> None:
    mine = inbox / name
    mine.parent.mkdir(exist_ok=True)
    write_batch(mine, 70)
    begin_by_hand(at, mine)
    if mine.parent.name == "below":
        (mine.parent / "half.tmp").touch()  # so that the folder is no batch
    fill(inbox, 1)
    end = time.monotonic() + 60
    loop.run(at, inbox, should_stop=lambda: bool(batches_of(at)) or time.monotonic() > end)
    assert mine.exists()
    assert [each.data.name for each in batches_of(at) if each.data] == ["day-000.jsonl"]


def test_more_processes_than_one_are_refused(at: Layout, inbox: Path) -> None:
    edit(at, "launch.nproc=2")
    fill(inbox, 1)
    with pytest.raises(ConfigError, match="asks for 2 processes") as caught:
        loop.run(at, inbox, once=True)
    assert "launch.nproc = 1" in caught.value.hint and "mvc train" in caught.value.hint


def test_once_does_not_wait_for_a_full_disk(at: Layout, inbox: Path) -> None:
    edit(at, "watch.min_free_gb=1000000")
    fill(inbox, 1)
    with pytest.raises(DiskFull, match="GB of disk are free"):
        loop.run(at, inbox, once=True)


def test_a_batch_of_nonsense_that_worsens_the_gate_is_set_aside(
    new_model: Callable[..., Layout], inbox: Path, tmp_path: Path
) -> None:
    # A head that learns, so that a batch can do harm; nonsense is what it is in no language.
    held_out = rows(tmp_path / "held-out.jsonl", 2000, 16)
    gate = (f"gate.data={held_out}", "gate.bound=0.05", "watch.explode=0")
    at = new_model(*QUICK, 'lora.modules_to_save=["lm_head"]', *gate)
    good = fill(inbox, 2, num_rows=16)
    text = "".join(json.dumps({"text": "\u00a7\u00b6" * 12}) + "\n" for _ in range(64))
    (inbox / "day-000-nonsense.jsonl").write_text(text)
    loop.run(at, inbox, once=True)
    assert [each.data.name for each in batches_of(at) if each.data] == [p.name for p in good]
    assert "worsened the loss on held-out.jsonl" in why(inbox, "day-000-nonsense.jsonl")
    assert all(each.gate for each in batches_of(at))
    first, second = (each.gate.value for each in batches_of(at) if each.gate)
    assert second < first + 0.05
    assert sound(at)


def test_what_lies_in_the_repo_is_not_imported_by_what_the_calendar_runs(
    at: Layout, inbox: Path
) -> None:
    bait = "open('ran', 'w').close()"
    for name in ("click.py", "logging.py", "mvc.py"):
        (at.root / name).write_text(bait)
    edit(at, "snapshot.push=nowhere")
    fill(inbox, 1)
    loop.run(at, inbox, once=True)
    told: list[str] = []

    class Told:
        def note(self, text: str) -> None: ...

        def warn(self, text: str) -> None:
            told.append(text)

    sender = Calendar(at, Told())  # type: ignore[arg-type]
    sender._unsent.touch()
    sender.send()
    assert "there is no remote" in told[0]
    assert not (at.root / "ran").exists()
