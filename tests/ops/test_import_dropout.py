"""Where an imported line leaves the old script's bits: at the one number that each start drew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mvc.engine.state import load_torch
from mvc.ops import train
from mvc.store.layout import Layout
from tests.ops.conftest import train_one
from tests.ops.old_script import Script
from tests.ops.test_exact import equal
from tests.ops.test_import_ import ADAPTER, days, take, tokens
from tests.processes import in_process

__all__ = ["days", "take"]


def draw(path: Path) -> None:
    """What iterating a DataLoader takes from torch's generator before the first step.

    Source: torch/utils/data/dataloader.py, `_BaseDataLoaderIter.__init__` (`_base_seed`).
    """
    found = load_torch(path)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(found["cpu"])
        torch.empty((), dtype=torch.int64).random_()
        found["cpu"] = torch.get_rng_state()
    torch.save(found, path)


@pytest.mark.parametrize("drawn", [False, True])
def test_with_dropout_the_script_s_own_draw_is_the_whole_difference(
    drawn: bool, take: Callable[..., Layout], days: list[Path], tiny_base: Path, tmp_path: Path
) -> None:
    """A script that starts anew loads the random state and then makes an iterator of its loader,
    which draws one number. A run that was never interrupted does not draw it, and no more does mvc.
    """
    old, theirs = tmp_path / "bot", tmp_path / "theirs"
    in_process(lambda: Script(tiny_base, old).batch(tokens(tiny_base, days[0])))
    shutil.copytree(old, theirs)
    if drawn:
        draw(old / "current_model" / "rng_state.pth")
    at = take(old, "lora.dropout=0.1")
    dump = tmp_path / "rows.jsonl"
    train.dry_run(at, [days[1]], dump=dump)
    rows = [json.loads(line) for line in dump.read_text().splitlines()]
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
    in_process(lambda: Script(tiny_base, theirs).batch(rows))
    train_one(at, days[1])
    told = theirs / "current_model"
    for name, load in ((ADAPTER, load_file), ("rng_state.pth", load_torch)):
        assert equal(load(at.state / name), load(told / name)) == drawn, name
