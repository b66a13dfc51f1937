"""What a batch costs, in counts that no busy machine can upset (issue 6).

Real training of a tiny base, in forks of this process, whose torch is loaded once; an adapter of
rank 512 makes the state 6 MB. The long line's other commits have the state of its first batch,
made without torch.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mvc.ops import init
from mvc.store.layout import Layout
from tests.counting import Counts, count_warm
from tests.ops import lines
from tests.ops.conftest import SETS, train_one, write_batch

SHORT, LONG = 2, 12
FIXED = 1_800_000
"""Bytes that are read or written whatever the state's size is; an adapter alone is more."""


def test_what_a_batch_costs_at_a_short_and_a_long_history(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [*SETS, "lora.r=512", "train.warmup_steps=0"]
    at = Layout(init.init(tmp_path / "model", str(tiny_base), sets=sets).root)
    train_one(at, write_batch(tmp_path / "first.jsonl", 0, 2))
    kept = shutil.copytree(at.state, tmp_path / "state")
    monkeypatch.setattr(lines, "fill", lambda to, seed: shutil.copytree(kept, to))
    short = counted(at, tmp_path, SHORT)
    for seed in range(SHORT + 1, LONG):
        lines.commit(at, seed)
    long = counted(at, tmp_path, LONG)

    sizes = {path.name: path.stat().st_size for path in at.state.iterdir()}
    state_bytes = sum(sizes.values())
    assert sizes["adapter_model.safetensors"] > FIXED
    for found in (short, long):
        assert len(found.git) == 44, found.git
        assert found.others == ()
        assert found.databases == 13
        # The state before it is hashed once, to be sure of it, and the new one as it is written.
        assert 0 <= found.hashed - 4 * state_bytes < 50_000
        # Besides, the moments are loaded; the adapter is mapped.
        assert 0 <= found.read - state_bytes - sizes["optimizer.pt"] <= FIXED
        assert 0 <= found.written - state_bytes <= FIXED
        objects = [
            n for path, n in found.opened.items() if "/.dvc/" in path and path[-4:] != ".dir"
        ]
        assert set(objects) == {1}, found.opened
        # Files before their list, of the state and of the data.
        assert found.most_synced == 4, found.synced
    assert short.git == long.git
    assert sum(short.opened.values()) == sum(long.opened.values())
    assert abs(short.hashed - long.hashed) < 10_000
    assert abs(short.read - long.read) < FIXED / 10
    assert abs(short.written - long.written) < FIXED / 10


def counted(at: Layout, folder: Path, number: int) -> Counts:
    """What the batch of that number costs, two rows of its own."""
    data = write_batch(folder / f"batch-{number}.jsonl", 8 * number, 2)
    found = count_warm(at.root, "train", str(data))
    assert lines.git(at.root, "show", "-s", "--format=%s").startswith(f"Batch {number}: ")
    return found
