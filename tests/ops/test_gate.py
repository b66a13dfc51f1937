"""The gate: each batch is measured on a held-out file, and one that worsens it is not kept."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mvc.engine import files, gate
from mvc.errors import ConfigError, Interrupted, Worsened
from mvc.ops import batch, checkout, init, log, rollback, stream
from mvc.store.layout import Layout
from mvc.types import Gate
from tests.ops.conftest import (
    SETS,
    Heard,
    Unmoved,
    edit,
    git,
    sound,
    state_bytes,
    states,
    train_one,
    write_batch,
)

GATE = ("gate.data=../held-out.jsonl", "gate.bound=5.0")
HARM = ("gate.bound=0.03", "train.learning_rate=0.3")
"""A bound that nonsense goes over at that rate, by twice as much."""


def write_held_out(folder: Path, first: int = 100) -> Path:
    """Twelve rows of text that no batch has, where `GATE` names them."""
    return write_batch(folder / "held-out.jsonl", first, 12)


def nonsense(folder: Path) -> Path:
    """Rows of two characters alone: at a high rate the model forgets that there are others."""
    draw, path = random.Random(0), folder / "noise.jsonl"
    rows = ["".join(draw.choice("~^") for _ in range(24)) for _ in range(8)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def _gated_once(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    write_held_out(folder)
    at = Layout(init.init(folder / "model", str(tiny_base), sets=[*SETS, *GATE]).root)
    for i in range(2):
        train_one(at, write_batch(folder / f"day-{i}.jsonl", 8 * i))
    return at.root


@pytest.fixture
def gated(_gated_once: Path, tmp_path: Path, batches: list[Path]) -> Layout:
    """A line with a gate after the first two `batches`, this test's own."""
    write_held_out(tmp_path)
    subprocess.run(["cp", "-a", _gated_once, tmp_path / "gated"], check=True)
    return Layout(tmp_path / "gated")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every value that was measured, in order."""
    found: list[float] = []
    real = gate.loss

    def loss(*args: object) -> float:
        found.append(real(*args))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(gate, "loss", loss)
    return found


def gates(at: Layout) -> list[Gate | None]:
    """What the line's commits say, oldest first."""
    return [each.gate for each in reversed(log.log(at))]


def values(at: Layout) -> list[float | None]:
    """What the line's commits say, oldest first, the values alone."""
    return [found and found.value for found in gates(at)]


def test_a_line_with_a_gate_has_the_bits_of_one_without(
    gated: Layout, trained: Layout, batches: list[Path], calls: list[float]
) -> None:
    train_one(gated, batches[2])
    assert states(gated) == states(trained)
    assert state_bytes(gated) == state_bytes(trained)
    assert gates(trained) == [None] * 4
    # After the batch alone: its parent's commit knows the value before it.
    assert calls == values(gated)[3:]
    assert [found is None for found in gates(gated)] == [True, False, False, False]
    assert json.loads(git(gated, "show", "HEAD:metrics.json"))["gate"] == {"loss": calls[0]}
    assert sound(gated)


def test_a_packed_line_with_a_gate_has_the_bits_of_one_without(
    new_model: Callable[..., Layout], batches: list[Path], tmp_path: Path, calls: list[float]
) -> None:
    write_held_out(tmp_path)
    sets = ("train.packing=true", "train.checkpoint_steps=1", "train.warmup_steps=0")
    plain, gated = new_model(*sets, name="plain"), new_model(*sets, *GATE, name="gated")
    for path in batches[:2]:
        train_one(plain, path)
        train_one(gated, path)
    assert states(plain) == states(gated)
    assert values(gated)[1:] == calls[1:]  # the first one is the value before the line


def test_a_batch_of_nonsense_is_refused_and_the_line_goes_on(
    gated: Layout, trained: Layout, batches: list[Path], tmp_path: Path
) -> None:
    edit(gated, *HARM)
    git(gated, "commit", "-qam", "A rate that does harm")
    with Unmoved(gated), pytest.raises(Worsened) as error:
        train_one(gated, nonsense(tmp_path))
    told = f"noise.jsonl worsened the loss on held-out.jsonl from {values(gated)[2]:.4g} to "
    assert error.value.message.startswith(told)
    assert not gated.run.exists()
    edit(gated, *GATE, "train.learning_rate=0.01")
    train_one(gated, batches[2])
    assert state_bytes(gated) == state_bytes(trained)
    assert sound(gated)


@pytest.mark.parametrize("change", ["file", "rows", "metric", "rollback"])
def test_what_the_parent_says_is_compared_only_where_it_is_of_the_same(
    change: str, gated: Layout, batches: list[Path], tmp_path: Path, calls: list[float]
) -> None:
    if change == "file":
        write_held_out(tmp_path, 120)
    elif change == "rollback":
        rollback.rollback(gated, "@1")
    elif change == "rows":
        edit(gated, "train.max_length=16")
    else:
        edit(gated, "gate.metric=perplexity", "gate.bound=1000.0")
    train_one(gated, batches[2])
    assert len(calls) == 2
    if change == "rollback":
        assert calls[0] == values(gated)[1]


def test_a_state_that_was_committed_by_hand_is_measured(
    gated: Layout, batches: list[Path], calls: list[float]
) -> None:
    checkout.checkout(gated, git(gated, "rev-list", "--max-parents=0", "HEAD"))
    other = train_one(gated, batches[1]).commit
    checkout.checkout(gated, "main")
    git(gated, "checkout", other.commit, "--", "current_model.dvc")
    git(gated, "commit", "-m", "The other line's state")
    checkout.checkout(gated, "main")
    calls.clear()
    train_one(gated, batches[2])
    assert len(calls) == 2
    assert other.gate and calls[0] == other.gate.value


@pytest.mark.parametrize("nothing", ["missing", "empty", "no json"])
def test_a_gate_without_rows_is_refused_before_anything_is_touched(
    nothing: str, gated: Layout, batches: list[Path], tmp_path: Path
) -> None:
    held_out = tmp_path / "held-out.jsonl"
    if nothing == "missing":
        held_out.unlink()
    else:
        held_out.write_text("" if nothing == "empty" else nothing)
    with Unmoved(gated), pytest.raises(ConfigError, match=r"gate\.data in mvc\.toml: .*held-out"):
        train_one(gated, batches[2])
    assert not gated.run.exists()


@pytest.mark.parametrize("gate_is", ["on", "switched on", "another file"])
def test_a_batch_gone_on_with_is_held_against_the_state_before_it(
    gate_is: str,
    gated: Layout,
    trained: Layout,
    batches: list[Path],
    tmp_path: Path,
    calls: list[float],
) -> None:
    checkout.checkout(trained, "@2")  # no value is known of it
    end, heard = states(gated), Heard()
    if gate_is != "switched on":
        edit(trained, *GATE)
    if gate_is == "another file":
        write_held_out(tmp_path, 120)
    with pytest.raises(Interrupted):
        train_one(trained, batches[2], progress=heard, should_stop=lambda: len(heard.points) == 2)
    stopped = calls.copy()
    edit(trained, *GATE)
    write_held_out(tmp_path)
    train_one(trained, batches[2], progress=heard)
    assert heard.starts[-1] == (batches[2].name, 4, 2)
    assert len(stopped) == (gate_is != "switched on")
    before = stopped if gate_is == "on" else calls[len(stopped) :][:1]
    assert before == values(gated)[2:]
    assert len(calls) == len(stopped) + (1 if gate_is == "on" else 2)
    train_one(gated, batches[2])
    assert gates(gated)[3] == gates(trained)[3]
    assert states(gated) == states(trained) != end


def test_a_batch_killed_before_its_commit_keeps_its_value_but_not_a_pass(
    gated: Layout, tmp_path: Path, calls: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    edit(gated, "train.learning_rate=0.3")
    path, heard = nonsense(tmp_path), Heard()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batch, "commit", killed)
        train_one(gated, path)
    copies = [Layout(tmp_path / name) for name in ("as it was", "bound", "file")]
    for copy in copies:
        subprocess.run(["cp", "-a", gated.root, copy.root], check=True)
    as_it_was, bound, file = copies
    (after,) = calls
    calls.clear()
    train_one(as_it_was, path, progress=heard)
    assert (heard.starts, calls, values(as_it_was)[3]) == ([], [], after)
    edit(bound, "gate.bound=0.03")
    with Unmoved(bound), pytest.raises(Worsened):
        train_one(bound, path, progress=heard)
    assert (heard.starts, calls) == ([], [])
    write_held_out(tmp_path, 120)  # what was measured says nothing of these rows
    train_one(file, path, progress=heard)
    assert heard.starts == [("noise.jsonl", 4, 0)]
    assert len(calls) == 2 and values(file)[3] == calls[1]
    assert states(file) == states(as_it_was)


def test_a_stream_measures_what_one_process_after_another_does(
    new_model: Callable[..., Layout],
    gated: Layout,
    batches: list[Path],
    tmp_path: Path,
    calls: list[float],
    request: pytest.FixtureRequest,
) -> None:
    at = new_model(*GATE)
    line = stream.Stream(at, "mvc watch")
    request.addfinalizer(line.close)
    line.open()
    edit(at, *HARM)
    with pytest.raises(Worsened):
        line.train(files.identify(nonsense(tmp_path)))
    assert line.culprit and line.culprit.name == "noise.jsonl"
    edit(at, "gate.bound=5.0", "train.learning_rate=0.01")
    calls.clear()
    for path in batches[:2]:
        line.train(files.identify(path))
    line.drain()
    assert states(at) == states(gated)
    assert gates(at) == gates(gated)
    assert len(calls) == 3  # before the first one, and after each
    assert len(line._session._rows) == 1  # the held-out ones
    assert sound(at)
