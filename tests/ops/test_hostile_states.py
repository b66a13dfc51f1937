"""A stranger's state: what training would open is looked at first, and refused in words.

Every state here is whole and its manifest right, so that DVC and git find nothing wrong with it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from mvc.errors import BaseModelError, MvcError
from mvc.store.layout import Layout
from tests.ops.conftest import edit, git, train_one
from tests.ops.strangers import Stranger, bound_memory
from tests.processes import in_process

ADAPTER = "adapter_model.safetensors"
ENDLESS = r"(([\w.]+)+)+!"


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (self.command,))


Case = Callable[[Stranger], object]


def saved(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def code_in(name: str) -> Case:
    return lambda s: s.replace(name, saved({"state": {}, "x": Code(s.command)}))


def optimizer(change: Callable[[dict[int, dict[str, torch.Tensor]]], object]) -> Case:
    """Other moments under the same names."""

    def case(s: Stranger) -> None:
        found = torch.load(s.at.state / "optimizer.pt", weights_only=True)
        change(found["state"])
        s.replace("optimizer.pt", saved(found))

    return case


def adapter(change: Callable[[dict[str, torch.Tensor]], object]) -> Case:
    """Other tensors in the adapter."""

    def case(s: Stranger) -> None:
        tensors = load((s.at.state / ADAPTER).read_bytes())
        change(tensors)
        s.replace(ADAPTER, save(tensors))

    return case


def header(shape: list[int], length: int | None = None) -> Case:
    """A safetensors header that declares one tensor of that shape, and no bytes for it."""
    text = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 16]}}).encode()
    data = struct.pack("<Q", len(text) if length is None else length) + text + bytes(16)
    return lambda s: s.replace(ADAPTER, data)


def config(**keys: object) -> Case:
    """Other keys in adapter_config.json."""

    def case(s: Stranger) -> None:
        found = json.loads((s.at.state / "adapter_config.json").read_text())
        s.replace("adapter_config.json", json.dumps(found | keys).encode())

    return case


def repacked(change: Callable[[str, bytes], tuple[bytes, int]]) -> Case:
    """optimizer.pt with other records: (content, compression) from (name, content)."""

    def case(s: Stranger) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(s.at.state / "optimizer.pt") as old, zipfile.ZipFile(out, "w") as new:
            for info in old.infolist():
                data, how = change(info.filename, old.read(info))
                new.writestr(info.filename, data, compress_type=how)
        s.replace("optimizer.pt", out.getvalue())

    return case


def bomb(name: str, data: bytes) -> tuple[bytes, int]:
    return (bytes(1 << 30) if name.endswith("data/0") else data), zipfile.ZIP_DEFLATED


def set_first(tensor: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    return optimizer(lambda state: state[0].update(exp_avg=tensor(state[0]["exp_avg"])))


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(iter(tensors))


def tokenizer(s: Stranger) -> None:
    """A tokenizer whose class is a file of the stranger's."""
    found = json.loads((s.at.state / "tokenizer_config.json").read_text())
    found |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    code = f"import os; os.system({s.command!r})\nclass Evil: ...\n"
    s.replace("evil.py", code.encode(), {"tokenizer_config.json": json.dumps(found).encode()})


def settings(old: str, new: str) -> Case:
    def case(s: Stranger) -> None:
        text = (s.root / "mvc.toml").read_text()
        assert old in text
        s.write("mvc.toml", text.replace(old, new, 1))

    return case


def base_with_code(s: Stranger) -> None:
    """A base in the repo itself, its digest right, whose class is a file of the stranger's."""
    from mvc.engine import base
    from mvc.store import config as toml

    old = toml.load(s.at).base
    shutil.copytree(old.model, s.root / "base")
    told = json.loads((s.root / "base" / "config.json").read_text())
    told |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
    }
    (s.root / "base" / "config.json").write_text(json.dumps(told))
    (s.root / "base" / "evil.py").write_text(f"import os; os.system({s.command!r})\n")
    git(s.at, "add", "base")
    edit(s.at, "base.model=base", f"base.digest={base.resolve('base', '', s.root).digest}")
    git(s.at, "add", "mvc.toml")


CASES: dict[str, tuple[Case, str]] = {
    "code in optimizer.pt": (code_in("optimizer.pt"), r"optimizer\.pt.*code"),
    "code in scheduler.pt": (code_in("scheduler.pt"), r"scheduler\.pt.*code"),
    "code in rng_state.pth": (code_in("rng_state.pth"), r"rng_state\.pth.*code"),
    "code in a file that nobody reads": (code_in("other.bin"), r"other\.bin.*code"),
    "code in training_args.bin": (code_in("training_args.bin"), r"training_args\.bin"),
    "code in a bare pickle": (
        lambda s: s.replace("optimizer.pt", pickle.dumps(Code(s.command))),
        r"optimizer\.pt",
    ),
    "code by a newer protocol": (
        repacked(
            lambda name, data: (
                pickle.dumps(Code("touch marker"), 4) if name.endswith("data.pkl") else data,
                zipfile.ZIP_STORED,
            )
        ),
        r"optimizer\.pt.*cannot be checked",
    ),
    "an archive that unfolds": (repacked(bomb), r"optimizer\.pt.*compressed"),
    "a tensor of 4 TB over one number": (
        set_first(lambda t: torch.zeros(1).expand(1 << 40)),
        r"optimizer\.pt.*(larger than|shape)",
    ),
    "moments of another shape": (set_first(lambda t: t[:1]), r"optimizer\.pt.*shape"),
    "a factored moment of another shape": (
        optimizer(lambda state: state[0].update(exp_avg_sq_row=torch.ones(1 << 20))),
        r"optimizer\.pt.*shape",
    ),
    "moments for other parameters": (
        optimizer(lambda state: state.update({10**12: state[0]})),
        r"optimizer\.pt",
    ),
    "a random state that is none": (
        lambda s: s.replace("rng_state.pth", saved({"python": 1, "numpy": [], "cpu": None})),
        "random state",
    ),
    "an adapter of another shape": (
        adapter(lambda t: t.update({first(t): torch.ones(3, 3)})),
        "does not fit",
    ),
    "an adapter of another dtype": (
        adapter(lambda t: t.update({first(t): t[first(t)].double()})),
        "does not fit",
    ),
    "a tensor too many": (adapter(lambda t: t.update(extra=torch.ones(1))), "does not fit"),
    "a header with a huge shape": (header([1 << 40, 1 << 20]), r"safetensors"),
    "a header of 8 EB": (header([4], length=(1 << 63) - 1), r"safetensors"),
    "a header with a negative shape": (header([-4]), r"safetensors"),
    "a rank of a million million": (config(r=10**12), "rank"),
    "a rank in a pattern": (config(rank_pattern={"q_proj": 10**9}), "rank"),
    "targets by a pattern without end": (config(target_modules=ENDLESS), "target_modules"),
    "one target by a pattern without end": (
        config(target_modules=["q_proj", ENDLESS]),
        "target_modules",
    ),
    "exceptions by a pattern without end": (config(exclude_modules=ENDLESS), "exclude_modules"),
    "ranks by a pattern without end": (config(rank_pattern={ENDLESS: 4}), "rank_pattern"),
    "alphas by a pattern without end": (config(alpha_pattern={ENDLESS: 4}), "alpha_pattern"),
    "layers by a pattern without end": (
        config(layers_pattern=[ENDLESS], layers_to_transform=[0]),
        "layers_pattern",
    ),
    "modules to save by a pattern without end": (
        config(modules_to_save=[ENDLESS]),
        "modules_to_save",
    ),
    "a module to import": (
        config(megatron_config={"x": 1}, megatron_core="evil"),
        "megatron_con?",
    ),
    "an auto mapping": (
        config(auto_mapping={"base_model_class": "X", "parent_library": "evil"}),
        "auto_mapping",
    ),
    "another kind of adapter": (config(peft_type="EVIL"), "LoRA"),
    "layers without end": (config(layer_replication=[[0, 10**9]]), "layer_replication"),
    "a configuration that is deep": (
        lambda s: s.replace("adapter_config.json", b"[" * 100_000),
        "adapter_config",
    ),
    "a tokenizer with code": (tokenizer, "tokenizer"),
    "settings that ask for remote code": (
        settings("[base]", "[base]\ntrust_remote_code = true"),
        "trust_remote_code",
    ),
    "settings with another base": (settings('model = "', 'model = "/etc'), "base"),
    "settings with a huge rank": (settings("r = 4", f"r = {10**12}"), r"lora\.r"),
    "a base with code": (base_with_code, "base"),
}


@pytest.mark.parametrize("case", CASES)
def test_training_refuses(trained: Layout, tmp_path: Path, batches: list[Path], case: str) -> None:
    (tmp_path / "theirs").mkdir()
    stranger = Stranger(trained, tmp_path / "theirs")
    change, said = CASES[case]
    change(stranger)
    hostile = stranger.commit()
    subprocess.run(["git", "checkout", "-q", "-f", hostile], cwd=trained.root, check=True)
    before = {p: p.read_bytes() for p in stranger.outside.iterdir()}

    def victim() -> tuple[str, str] | None:
        os.chdir(trained.root)
        bound_memory()
        from mvc.ops import checkout

        try:
            checkout.checkout(trained, hostile)
            train_one(trained, batches[0], again=True)
        except MvcError as error:
            return error.message, error.hint
        return None

    found = in_process(victim)
    assert found is not None, "it was trained on"
    assert re.search(said, found[0]), found
    assert found[1]
    assert not stranger.marker.exists()
    assert not (trained.root / "marker").exists()
    assert {p: p.read_bytes() for p in stranger.outside.iterdir()} == before
    assert git(trained, "rev-parse", "HEAD") == hostile


def test_the_code_of_a_base_does_not_run(trained: Layout, tmp_path: Path) -> None:
    """Even where a line was made on such a base, so that nothing in mvc.toml is odd."""
    from mvc.engine import base as bases

    (tmp_path / "theirs").mkdir()
    stranger = Stranger(trained, tmp_path / "theirs")
    base_with_code(stranger)

    def load_it() -> None:
        found = bases.resolve("base", "", trained.root)
        bases.load_model(found, "fp32")

    with pytest.raises(BaseModelError, match="base model base"):
        in_process(load_it)
    assert not stranger.marker.exists()


def test_the_bait_can_bite(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.load(io.BytesIO(saved(Code(f"touch {marker}"))), weights_only=False)
    assert marker.exists()
