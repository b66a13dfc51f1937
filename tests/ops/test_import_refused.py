"""`mvc import` refuses what it cannot make a line of, before anything is made."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvc.engine import adopt
from mvc.errors import ConfigError, DataError, DiskFull, RepoError, StateError
from mvc.ops import checkout, fsck, import_, log, snapshot
from mvc.store import objects
from mvc.store.layout import Layout
from tests.killing import killed_at, moments
from tests.ops import old_script
from tests.ops.conftest import state_bytes, write_batch
from tests.ops.old_script import NOON, Script, contents, rows
from tests.processes import in_process
from tests.tiny import make_base

ADAPTER = "adapter_model.safetensors"


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.mark),))


def saved(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


@pytest.fixture(scope="module")
def _old(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("old")
    data = rows(AutoTokenizer.from_pretrained(tiny_base), write_batch(folder / "a.jsonl", 0))
    script = Script(tiny_base, folder / "bot")

    def run() -> None:
        script.batch(data)
        script.night("2026-11-20")
        script.batch(data)

    in_process(run)
    return folder / "bot"


@pytest.fixture
def old(_old: Path, tmp_path: Path) -> Path:
    """An old script's folder with one night, this test's own."""
    shutil.copytree(_old, tmp_path / "bot")
    return tmp_path / "bot"


@pytest.fixture
def take(tiny_base: Path, tmp_path: Path) -> Callable[..., Layout]:
    def take(path: Path, *sets: str, base: Path = tiny_base, to: str = "model") -> Layout:
        found = [*old_script.SETS, *sets]
        made = import_.import_(path, tmp_path / to, str(base), sets=found, now=NOON)
        return Layout(made.root)

    return take


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(path: Path) -> None:
    """The second moment of one parameter loses a row."""
    found = torch.load(path, weights_only=True)
    found["state"][1]["exp_avg_sq"] = found["state"][1]["exp_avg_sq"][1:].clone()
    torch.save(found, path)


def fewer(path: Path) -> None:
    found = torch.load(path, weights_only=True)
    del found["state"][0]
    torch.save(found, path)


def another_adapter(folder: Path) -> None:
    """The same tensors but one."""
    tensors = load_file(folder / ADAPTER)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / ADAPTER)


def link(path: Path) -> None:
    """The file itself lies elsewhere."""
    path.rename(path.parents[3] / path.name)
    path.symlink_to(path.parents[3] / path.name)


# The last state, and a word of the message. `code` is a pickle that would make a folder.
HOSTILE: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "code in optimizer.pt": (lambda f, code: (f / "optimizer.pt").write_bytes(code), "code"),
    "code in scheduler.pt": (lambda f, code: (f / "scheduler.pt").write_bytes(code), "code"),
    "code in rng_state.pth": (lambda f, code: (f / "rng_state.pth").write_bytes(code), "code"),
    "moments of another shape": (lambda f, _: cut(f / "optimizer.pt"), "exp_avg_sq of parameter 1"),
    "moments too few": (lambda f, _: fewer(f / "optimizer.pt"), "one entry for each parameter"),
    "an adapter of fewer tensors": (lambda f, _: another_adapter(f), "the model has"),
    "a link out of the folder": (lambda f, _: link(f / ADAPTER), "is a link to"),
    "another kind of adapter": (
        lambda f, _: change(f / "adapter_config.json", peft_type="IA3"),
        "another kind of adapter",
    ),
    "a module to import": (
        lambda f, _: change(f / "adapter_config.json", megatron_config={"a": 1}),
        "megatron_config",
    ),
    "another LoRA than before": (
        lambda f, _: change(f / "adapter_config.json", lora_alpha=64),
        "its LoRA is not that of current_model",
    ),
    "a log that is none": (
        lambda f, _: (f / "trainer_state.json").write_text("[1"),
        "trainer_state",
    ),
    "no adapter": (lambda f, _: (f / ADAPTER).unlink(), "there is no adapter_model.safetensors"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_state_is_refused_and_nothing_is_made(
    case: str, old: Path, take: Callable[..., Layout], tmp_path: Path
) -> None:
    pin, mark = old / "snapshots" / "2026-11-20", tmp_path / "ran"
    spoil, word = HOSTILE[case]
    spoil(pin, saved({"state": {}, "x": Code(mark)}))
    before = contents(old)
    with pytest.raises(StateError) as caught:
        take(old)
    assert word in caught.value.message
    assert str(pin) in caught.value.message
    assert caught.value.hint
    assert "fsck" not in caught.value.hint
    assert not mark.exists()
    assert not (tmp_path / "model").exists()
    assert contents(old) == before


def test_a_training_args_bin_is_never_opened(
    old: Path, take: Callable[..., Layout], tmp_path: Path
) -> None:
    (old / "current_model" / "training_args.bin").write_bytes(saved(Code(tmp_path / "ran")))
    at = take(old)
    assert not (tmp_path / "ran").exists()
    assert not list(at.root.rglob("training_args.bin"))


def test_another_base_is_told_from_the_adapter_s(
    old: Path, take: Callable[..., Layout], tmp_path: Path
) -> None:
    with pytest.raises(StateError, match="the adapter is none of") as caught:
        take(old, base=make_base(tmp_path / "wide", hidden=64))
    assert "--base" in caught.value.hint
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("sets", "word"),
    [("lora.r=8", "lora.r"), ("train.optimizer=sgd", "AdamW"), ("train.rate=1", "train.rate")],
)
def test_what_the_states_decide_cannot_be_set(
    sets: str, word: str, old: Path, take: Callable[..., Layout], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=word):
        take(old, sets)
    assert not (tmp_path / "model").exists()


def test_a_folder_in_use_or_without_a_state_is_refused(
    old: Path, take: Callable[..., Layout], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(RepoError, match="is not empty"):
        take(old, to="full")
    with pytest.raises(DataError, match="holds no state"):
        take(tmp_path / "full")
    with pytest.raises(DataError, match="is no folder"):
        take(tmp_path / "nowhere")
    with pytest.raises(RepoError, match="lies in what is imported"):
        take(old, to="bot/current_model/model")
    at = take(old)
    with pytest.raises(RepoError, match="is a model repo already"):
        take(at.root, to="again")
    with pytest.raises(RepoError, match="is a model repo already"):
        take(old)
    assert not (tmp_path / "again").exists()


def test_a_folder_that_is_written_to_meanwhile_is_refused(
    old: Path, take: Callable[..., Layout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = adopt.Adoption.write

    def slow(self: Any, found: Any, *rest: Any) -> Any:
        os.utime(found.folder / ADAPTER)
        return write(self, found, *rest)

    monkeypatch.setattr(adopt.Adoption, "write", slow)
    with pytest.raises(StateError, match="changed while it was read"):
        take(old)
    assert not (tmp_path / "model").exists()


def test_a_full_disk_leaves_nothing(
    old: Path, take: Callable[..., Layout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFull("no space left", "free some space")

    monkeypatch.setattr(objects, "remember", full)
    with pytest.raises(DiskFull):
        take(old)
    assert not (tmp_path / "model").exists()


def test_a_kill_at_any_moment_leaves_a_whole_repo_or_none(
    old: Path, take: Callable[..., Layout], tmp_path: Path
) -> None:
    told = moments(lambda: take(old, to="whole"))
    (ref,) = (n for n, what in enumerate(told, 1) if "update-ref" in what)
    ends = []
    for nth in (ref // 3, ref - 20, ref, ref + 6, ref + 20):
        name = f"killed-{nth}"
        assert killed_at(lambda name=name: take(old, to=name), nth)  # type: ignore[misc]
        at = Layout(tmp_path / name)
        with pytest.raises(RepoError) as caught:
            take(old, to=name)
        ends.append(caught.value.message.removeprefix(f"{at.root} "))
        if "is what an interrupted" in ends[-1]:
            assert f"rm -r {at.root}" in caught.value.hint
            continue
        if "without mvc.toml" in ends[-1]:  # as the hint says; the next command does the rest
            subprocess.run(["git", "checkout", "HEAD", "--", "mvc.toml"], cwd=at.root, check=True)
        checkout.checkout(at, "main")
        assert [c.kind for c in log.log(at)] == ["import", "import"]
        assert [s.day for s in snapshot.snapshots(at)] == ["2026-11-20"]
        assert state_bytes(at) == state_bytes(Layout(tmp_path / "whole"))
        assert not fsck.fsck(at).findings
    left = "is what an interrupted `mvc import` left"
    assert ends[:2] == [left, left]
    assert left not in ends[3:]
