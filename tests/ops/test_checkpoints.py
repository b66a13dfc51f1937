"""A batch goes on from its newest whole checkpoint, and ends with the bits of an undisturbed run.

The newest is the one with the highest number; one that is torn, damaged or another batch's is
passed over. Ctrl-C keeps the checkpoint, whatever the step, and what changed meanwhile (another
file, mvc.toml) is refused with the ways out.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from itertools import count
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from mvc.engine import checkpoint
from mvc.engine.checkpoint import MANIFEST, Checkpoint, Manifest
from mvc.errors import Interrupted, RepoError
from mvc.ops import init, status, train
from mvc.store import history
from mvc.store.layout import Layout
from tests.ops.conftest import SETS, Heard, state_bytes, train_one, write_batch
from tests.processes import in_process

# --- choosing one -------------------------------------------------------------------------------


def write_checkpoint(folder: Path, step: int, key: str = "batch") -> Checkpoint:
    """A small whole checkpoint."""
    from mvc.engine.state import write_bytes

    temporary = checkpoint.begin(folder, step)
    files = (write_bytes(temporary, "a.bin", b"%d" % step * 50),)
    return checkpoint.finish(temporary, Manifest(step, key, files, (), (), 10, 1.0, 100))


def test_checkpoint_1000_is_newer_than_119(tmp_path: Path) -> None:
    for step in (119, 1000, 20):
        write_checkpoint(tmp_path, step)
    assert max(p.name for p in tmp_path.iterdir()) == "checkpoint-20"  # sorted by name it is not
    assert [step for step, _ in checkpoint.by_number(tmp_path)] == [1000, 119, 20]
    found = checkpoint.newest(tmp_path, "batch")
    assert found is not None and found.manifest.step == 1000


def test_only_lower_numbers_are_dropped(tmp_path: Path) -> None:
    for step in (119, 1000, 20):
        write_checkpoint(tmp_path, step)
    checkpoint.drop_older(tmp_path, 119)
    assert [step for step, _ in checkpoint.by_number(tmp_path)] == [1000, 119]


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def torn_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:-10])


def flipped_byte(folder: Path) -> None:
    file = max((p for p in folder.iterdir() if p.name != MANIFEST), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncated_file(folder: Path) -> None:
    file = max((p for p in folder.iterdir() if p.name != MANIFEST), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])


def missing_file(folder: Path) -> None:
    max(
        (p for p in folder.iterdir() if p.name != MANIFEST), key=lambda p: p.stat().st_size
    ).unlink()


def another_step(folder: Path) -> None:
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(replace(manifest, step=manifest.step + 1)))


def another_batch(folder: Path) -> None:
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(replace(manifest, key="another")))


DAMAGES = [
    no_manifest,
    torn_manifest,
    flipped_byte,
    truncated_file,
    missing_file,
    another_step,
    another_batch,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for step in (9, 10):
        write_checkpoint(tmp_path, step)
    damage(tmp_path / "checkpoint-10")
    found = checkpoint.newest(tmp_path, "batch")
    assert found is not None and found.folder.name == "checkpoint-9"
    damage(tmp_path / "checkpoint-9")
    assert checkpoint.newest(tmp_path, "batch") is None


def test_what_was_half_written_does_not_count(tmp_path: Path) -> None:
    (checkpoint.begin(tmp_path, 7) / "a.bin").write_bytes(b"half")
    for name in ("checkpoint-", "checkpoint-8.bak", "checkpoint-x", "tmp-checkpoint-9"):
        shutil.copytree(write_checkpoint(tmp_path / "other", 9).folder, tmp_path / name)
    (tmp_path / "checkpoint-9").write_text("a file")
    assert checkpoint.by_number(tmp_path) == []
    assert checkpoint.newest(tmp_path, "batch") is None


# --- going on from one --------------------------------------------------------------------------


class Line(msgspec.Struct):
    """A model repo with one batch, its second one's file, and the bits that that one leads to."""

    at: Layout
    data: Path
    state: dict[str, bytes]
    curve: bytes
    steps: int

    def stop(self, after: int) -> Interrupted:
        """Train the second batch in a process that is told to stop after so many steps."""
        asked = count(1)

        def act() -> Interrupted:
            with pytest.raises(Interrupted) as stopped:
                train_one(self.at, self.data, should_stop=lambda: next(asked) == after)
            return stopped.value

        return in_process(act)

    def go_on(self, **options: object) -> Heard:
        """Train it in a new process to its end; what its progress heard."""

        def act() -> Heard:
            heard = Heard()
            train_one(self.at, self.data, progress=heard, **options)
            return heard

        return in_process(act)

    def assert_good(self, heard: Heard, first_step: int) -> None:
        """It went on from `first_step` and ended with the undisturbed bits, in one commit."""
        assert heard.starts == [(self.data.name, self.steps, first_step)]
        assert state_bytes(self.at) == self.state
        assert (self.at.root / "loss.csv").read_bytes() == self.curve
        assert [c.kind for c in history.log(self.at.root)] == ["batch", "batch", "init"]
        assert not self.at.run.exists()

    @property
    def checkpoints(self) -> list[str]:
        return sorted(p.name for p in (self.at.run / "checkpoints").iterdir())


SHAPES = {
    "plain": ((), 12),
    "logged every third step": (("train.logging_steps=3",), 12),
    "accumulated, with a remainder": (
        ("train.gradient_accumulation_steps=2", "train.logging_steps=3"),
        23,
    ),
    "packed, two passes": (("train.packing=true", "train.micro_batch_size=1", "train.passes=2"), 4),
}
NewLine = Callable[..., Line]


def _copy(at: Layout, to: Path) -> Layout:
    subprocess.run(["cp", "-a", at.root, to], check=True)
    return Layout(to)


@pytest.fixture(scope="module")
def prepared(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> NewLine:
    """Makes a `Line` of a shape of `SHAPES`, once for all tests."""

    @cache
    def prepare(shape: str) -> Line:
        sets, num_rows = SHAPES[shape]
        folder = tmp_path_factory.mktemp("line")
        made = init.init(
            folder / "model", str(tiny_base), sets=[*SETS, "train.checkpoint_steps=0", *sets]
        )
        at = Layout(made.root)
        first, data = (write_batch(folder / f"{i}.jsonl", 30 * i, num_rows) for i in range(2))
        train.dry_run(at, [data])  # what is imported here, no child has to import
        import_module("mvc.engine.trainer")
        in_process(partial(train_one, at, first))
        undisturbed = _copy(at, folder / "undisturbed")
        steps = in_process(partial(train_one, undisturbed, data)).commit.steps
        curve = (undisturbed.root / "loss.csv").read_bytes()
        return Line(at, data, state_bytes(undisturbed), curve, steps)

    return prepare


@pytest.fixture
def new_second(prepared: NewLine, tmp_path: Path) -> NewLine:
    """Makes a copy of a prepared `Line`: `new_second("plain")`."""

    def new_second(shape: str = "plain", name: str = "model") -> Line:
        found = prepared(shape)
        return replace(found, at=_copy(found.at, tmp_path / name))

    return new_second


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ("plain", (2,)),
        ("logged every third step", (1, 2, 3, 4, 5)),
        ("accumulated, with a remainder", (1, 5)),
        ("packed, two passes", (1, 2)),
    ],
)
def test_ctrl_c_keeps_the_checkpoint_and_loses_no_bit(
    shape: str, steps: tuple[int, ...], new_second: NewLine
) -> None:
    for after in steps:
        line = new_second(shape, f"after-{after}")
        stopped = line.stop(after)
        assert stopped.exit_code == 130
        assert f"after step {after} of {line.steps}" in stopped.message
        assert f"`mvc train {line.data}`" in stopped.hint
        assert line.checkpoints == [f"checkpoint-{after}"]
        line.assert_good(line.go_on(), after)


def test_stopped_again_and_again(new_second: NewLine) -> None:
    line = new_second("logged every third step")
    for after in (1, 1, 2):  # counted from where it went on
        line.stop(after)
    run = status.status(line.at).run
    assert run is not None and (run.step, run.data_name, run.live) == (4, line.data.name, False)
    line.assert_good(line.go_on(), 4)


def test_asked_to_stop_in_the_last_step_it_ends(new_second: NewLine) -> None:
    line = new_second()
    asked = count(1)
    in_process(lambda: train_one(line.at, line.data, should_stop=lambda: next(asked) == line.steps))
    assert state_bytes(line.at) == line.state


@pytest.mark.parametrize("damage", [no_manifest, flipped_byte, truncated_file])
def test_a_damaged_checkpoint_costs_steps_and_no_bits(
    damage: Callable[[Path], None], new_second: NewLine, tmp_path: Path
) -> None:
    line = new_second()
    line.stop(2)
    folder = line.at.run / "checkpoints"
    shutil.copytree(folder / "checkpoint-2", tmp_path / "checkpoint-2")
    line.stop(3)
    assert line.checkpoints == ["checkpoint-5"]
    shutil.copytree(tmp_path / "checkpoint-2", folder / "checkpoint-2")
    damage(folder / "checkpoint-5")
    line.stop(1)  # went on from 2, not from 5
    assert checkpoint.by_number(folder)[-1][0] == 3
    damage(folder / "checkpoint-3")
    line.assert_good(line.go_on(), 0)


def test_another_batchs_checkpoint_is_never_used(new_second: NewLine) -> None:
    line = new_second()
    line.stop(3)
    other = write_batch(line.at.root.parent / "other.jsonl", 90, 12)
    twin = new_second(name="twin")
    in_process(partial(train_one, twin.at, other))
    (line.at.run / "run.json").unlink()  # nothing but the manifest says whose it is
    in_process(partial(train_one, line.at, other))
    assert state_bytes(line.at) == state_bytes(twin.at)


# --- what changed meanwhile ---------------------------------------------------------------------


def test_another_file_is_refused_with_both_ways_out(new_second: NewLine) -> None:
    line = new_second()
    line.stop(2)
    other = write_batch(line.at.root.parent / "it's other.jsonl", 90, 12)
    head = history.log(line.at.root)[0].commit
    with pytest.raises(RepoError) as refused:
        train_one(line.at, other)
    assert f"{line.data.name} is in progress at step 2" in refused.value.message
    assert f"`mvc train {line.data}`" in refused.value.hint
    assert "`mvc train --restart '" in refused.value.hint and "other.jsonl" in refused.value.hint
    assert history.log(line.at.root)[0].commit == head
    line.assert_good(line.go_on(), 2)


def test_restart_throws_the_checkpoint_away(new_second: NewLine) -> None:
    line = new_second()
    line.stop(2)
    line.assert_good(line.go_on(restart=True), 0)


def test_restart_with_another_file(new_second: NewLine) -> None:
    line = new_second()
    line.stop(2)
    other = write_batch(line.at.root.parent / "other.jsonl", 90, 12)
    result = in_process(partial(train_one, line.at, other, restart=True))
    assert result.commit.data is not None and result.commit.data.name == other.name
    assert not line.at.run.exists()
    assert state_bytes(line.at) != line.state


def test_a_change_of_mvc_toml_is_refused(new_second: NewLine) -> None:
    line = new_second()
    line.stop(2)
    text = line.at.config.read_text()
    changed = text.replace("\npasses = 1", "\npasses = 2")
    assert changed != text
    line.at.config.write_text(changed)
    with pytest.raises(RepoError) as refused:
        train_one(line.at, line.data)
    assert "mvc.toml" in refused.value.message and "step 2" in refused.value.message
    assert "back" in refused.value.hint and "--restart" in refused.value.hint
    line.at.config.write_text(text)
    line.assert_good(line.go_on(), 2)


def test_a_comment_in_mvc_toml_changes_nothing(new_second: NewLine) -> None:
    line = new_second()
    line.stop(2)
    line.at.config.write_text(line.at.config.read_text() + "\n# a thought\n")
    heard = line.go_on()
    assert heard.starts == [(line.data.name, line.steps, 2)]
    assert state_bytes(line.at) == line.state
