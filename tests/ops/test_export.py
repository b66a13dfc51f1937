"""`mvc export`: a plain folder that is the user's own, and a merged model that needs no PEFT."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from mvc.cli import main
from mvc.errors import MvcError, ObjectCorrupt, ObjectMissing, RepoError, StoreError
from mvc.ops import clone, export, log, push, remote, rollback
from mvc.store import collected, manifest, pointers, trash
from mvc.store.layout import Layout
from mvc.store.survey import part
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
from tests.ops.keeping import collect
from tests.tiny import make_base


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_older_state_is_copied_as_plain_files(trained: Layout, tmp_path: Path) -> None:
    with Unmoved(trained):
        done = export.export(trained, "@3", tmp_path / "deep" / "third")
        export.export(trained, "@1", tmp_path / "first")
    assert read(done.folder) == state_bytes(trained)
    assert done.num_files == len(state_bytes(trained))
    assert done.num_bytes == sum(map(len, state_bytes(trained).values()))
    assert read(tmp_path / "first") != read(done.folder)
    for path in done.folder.iterdir():
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1
        path.write_text("mine now")
    assert not list(done.folder.parent.glob(".mvc-*"))
    with Unmoved(trained):
        pass


def test_what_is_not_here_is_fetched(trained: Layout, tmp_path: Path) -> None:
    url = tmp_path / "remote.git"
    git(trained, "init", "-q", "--bare", str(url))
    remote.add(trained, "origin", str(url), str(tmp_path / "store"))
    push.push(trained, all_states=True)
    there = Layout(clone.clone(str(url), tmp_path / "clone").root)
    done = export.export(there, "@1", tmp_path / "first")
    export.export(trained, "@1", tmp_path / "mine")
    assert read(done.folder) == read(tmp_path / "mine")


def test_a_thinned_state_comes_without_its_moments(trained: Layout, tmp_path: Path) -> None:
    head = git(trained, "rev-parse", "HEAD")
    cache = pointers.cache_folder(trained)
    for item in manifest.files(trained, [head]):
        if part(*item.path.split("/")) == "moments":
            pointers.object_path(cache, item.md5).unlink()
    collected.write(trained, {head: "thin"})
    heard = Heard()
    for merged in (False, True):
        out = tmp_path / f"out-{merged}"
        done = export.export(trained, "HEAD", out, merged=merged, progress=heard)
        assert done.num_files == len(read(out))
        assert "optimizer.pt" not in read(out)
        assert any(name.endswith("model.safetensors") for name in read(out))
    assert any("its moments are gone" in note for note in heard.notes)


def test_a_folder_that_holds_something_is_refused(trained: Layout, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not empty"):
        export.export(trained, "HEAD", tmp_path / "full")
    with pytest.raises(RepoError, match="keeps its own files"):
        export.export(trained, "HEAD", trained.root / ".mvc" / "out")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert export.export(trained, "HEAD", tmp_path / "empty").num_files


def optimizer_object(at: Layout) -> Path:
    head = git(at, "rev-parse", "HEAD")
    md5 = next(w.md5 for w in manifest.files(at, [head]) if w.path.endswith("/optimizer.pt"))
    return pointers.object_path(pointers.cache_folder(at), md5)


@pytest.mark.parametrize("merged", [False, True])
def test_a_damaged_or_missing_object_leaves_no_folder(
    merged: bool, trained: Layout, tmp_path: Path
) -> None:
    path = optimizer_object(trained)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for error, spoil in ((ObjectCorrupt, lambda: None), (ObjectMissing, path.unlink)):
        spoil()
        with pytest.raises(error) as caught:
            export.export(trained, "HEAD", tmp_path / "out", merged=merged)
        assert "optimizer.pt" in caught.value.message
        assert caught.value.hint
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".mvc-*"))


CASES: dict[str, tuple[list[str], bool]] = {
    "all linear layers": ([], True),
    "dora": (["lora.use_dora=true", "lora.use_rslora=true"], True),
    # The tiny base ties its head to its embeddings; what is learned of one is not the other's.
    "the head": (['lora.target_modules=["lm_head", "q_proj"]'], False),
    "a head of its own": (['lora.modules_to_save=["lm_head"]'], False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_merged_model_says_what_base_and_adapter_say(
    case: str,
    new_model: Callable[..., Layout],
    batches: list[Path],
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sets, tied = CASES[case]
    at = new_model("train.warmup_steps=0", *sets)
    train_one(at, batches[0])
    done = export.export(at, "HEAD", tmp_path / "merged", merged=True)
    assert done.merged
    names = set(read(done.folder))
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert not any(name.startswith(("adapter_", "optimizer", "rng_state")) for name in names)

    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    ids = torch.tensor([tokenizer("every batch becomes a commit")["input_ids"]])
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    merged = AutoModelForCausalLM.from_pretrained(done.folder)
    with torch.no_grad():
        plain = base(ids).logits
        ours = PeftModel.from_pretrained(base, at.state).eval()(ids).logits
        theirs = merged(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(plain, theirs, atol=1e-4), "nothing was learned: this shows nothing"
    told = json.loads((done.folder / "config.json").read_text())
    assert (told["tie_word_embeddings"], told["use_cache"]) == (tied, True)


def test_a_merged_model_has_its_base_s_precision(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from mvc.ops import init

    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        base = make_base(tmp_path / name)
        AutoModelForCausalLM.from_pretrained(base).to(dtype).save_pretrained(base)
        at = Layout(init.init(tmp_path / f"on-{name}", str(base), sets=["lora.r=4"]).root)
        done = export.export(at, "HEAD", tmp_path / f"merged-{name}", merged=True)
        found: dict[str, Any] = load_file(done.folder / "model.safetensors")
        assert {tensor.dtype for tensor in found.values()} == {dtype}


def test_a_merged_model_needs_the_line_s_own_base(
    tmp_path: Path, new_model: Callable[..., Layout]
) -> None:
    at = new_model()
    edit(at, f"base.model={make_base(tmp_path / 'other', seed=1)}")
    with pytest.raises(MvcError, match="another one than this line was trained on"):
        export.export(at, "HEAD", tmp_path / "out", merged=True)
    assert not (tmp_path / "out").exists()


def test_a_thin_state_without_a_whole_one_before_it_begins_a_line_of_its_own(
    trained: Layout, tmp_path: Path
) -> None:
    """What the error names is run as it stands there, to a trained batch."""
    collect(trained, {"last": 1}, thin={"last": 3}, now=datetime.now(UTC))
    assert trash.listing(trained)  # what went just now can come back
    with pytest.raises(ObjectMissing) as caught:
        rollback.rollback(trained, "@2")
    assert caught.value.hint.endswith(" brings it back") and "mvc gc --restore" in caught.value.hint
    collect(trained, {"last": 1}, thin={"last": 3}, empty_trash=True)
    assert not trash.listing(trained)
    with pytest.raises(ObjectMissing) as caught:
        rollback.rollback(trained, "@2")
    assert "mvc gc --restore" not in caught.value.hint
    commands = re.findall("`(mvc [^`]*)`", caught.value.hint)
    assert [command.split()[1] for command in commands] == ["export", "import"]
    for command in commands:
        words = command.replace("DIR", str(tmp_path / "out")).replace("NEW", str(tmp_path / "new"))
        assert main.run(["-C", str(trained.root), *shlex.split(words)[1:]]) == 0
    new = Layout(tmp_path / "new")
    name = "adapter_model.safetensors"
    assert state_bytes(new)[name] == (tmp_path / "out" / name).read_bytes()
    edit(new, "train.packing=false", "train.micro_batch_size=2", "train.max_length=32")
    done = train_one(new, write_batch(tmp_path / "next.jsonl", 40)).commit
    assert (done.lifetime_step, adam_step(new)) == (done.steps, done.steps)
    assert done.learning_rate and done.learning_rate.first < done.learning_rate.last
    assert "moments" in log.log(new)[-1].warnings[0]
