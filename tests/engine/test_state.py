"""The state's files: the same values are the same bytes, and nothing is loaded unchecked.

Moments of another model, damaged files and code in a pickle are each a StateError (Fixed 2 and 9).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save, save_file
from transformers import AutoModelForCausalLM

from mvc.engine import live, rng, state
from mvc.errors import StateError
from mvc.types import CurvePoint, FileDigest


@pytest.fixture(scope="module")
def new_adapter(tiny_base: Path) -> Callable[..., PeftModel]:
    def new_adapter(r: int = 4, **more: Any) -> PeftModel:
        torch.manual_seed(7)
        config = LoraConfig(r=r, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **more)
        return get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), config)

    return new_adapter


def adam(model: PeftModel, **more: Any) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, **{"lr": 1e-3, **more})


def train_some(model: PeftModel, made: torch.optim.Optimizer, num_steps: int = 3) -> None:
    for step in range(num_steps):
        tokens = torch.arange(8)[None] + step
        model(input_ids=tokens, labels=tokens).loss.backward()
        made.step()
        made.zero_grad()


@pytest.fixture
def stored(
    new_adapter: Callable[..., PeftModel], tmp_path: Path
) -> tuple[Path, PeftModel, torch.optim.Optimizer]:
    """A folder with adapter and moments after three steps, and who wrote them."""
    model = new_adapter()
    made = adam(model)
    train_some(model, made)
    folder = tmp_path / "state"
    write(folder, model, made)
    return folder, model, made


def write(folder: Path, model: PeftModel, made: torch.optim.Optimizer) -> list[FileDigest]:
    folder.mkdir()
    point = CurvePoint(1, 1, 2.5, 1e-3, 0.5)
    return [
        *state.write_adapter(folder, model, "tiny"),
        state.write_torch(folder, state.OPTIMIZER, made.state_dict()),
        state.write_json(folder, state.PARAMETERS, state.optimizer_parameters(model, made)),
        state.write_torch(folder, rng.file_name(0, 1), rng.capture(1)),
        state.write_trainer_state(folder, [point], 4, 2),
    ]


def test_the_same_state_is_the_same_bytes(
    stored: tuple[Path, PeftModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    _, model, made = stored
    folders = [tmp_path / "one", tmp_path / "another name"]
    one, two = (write(folder, model, made) for folder in folders)
    assert one == two
    for digest in one:
        data = (folders[0] / digest.path).read_bytes()
        assert data == (folders[1] / digest.path).read_bytes()
        assert digest.size_bytes == len(data)
        assert digest.md5 == hashlib.md5(data).hexdigest()
        assert digest.sha256 == hashlib.sha256(data).hexdigest()


def test_a_torch_file_has_the_same_bytes_under_every_name(tmp_path: Path) -> None:
    value = {"a": torch.arange(5), "b": [1.5, "x"]}
    digests = [state.write_torch(tmp_path, name, value) for name in ("a.pt", "long name.bin")]
    assert digests[0].md5 == digests[1].md5
    assert state.load_torch(tmp_path / "a.pt")["a"].tolist() == [0, 1, 2, 3, 4]


class _Ordered(set[str]):
    """A set that is iterated in a given order, as another process's hash seed would have it."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)


def test_target_modules_are_written_in_one_order(
    new_adapter: Callable[..., PeftModel], tmp_path: Path
) -> None:
    model = new_adapter()
    texts = set()
    for i, names in enumerate((["q_proj", "v_proj"], ["v_proj", "q_proj"])):
        model.peft_config["default"].target_modules = _Ordered(names)
        folder = tmp_path / str(i)
        folder.mkdir()
        state.write_adapter(folder, model, "tiny")
        texts.add((folder / state.ADAPTER_CONFIG).read_text())
    assert len(texts) == 1
    assert json.loads(texts.pop())["target_modules"] == ["q_proj", "v_proj"]


def test_the_counter_is_zero_and_the_log_is_the_batch_s(tmp_path: Path) -> None:
    points = [CurvePoint(i, 8 + i, 2.0 - i / 8, 1e-3, 0.25) for i in (1, 2)]
    state.write_trainer_state(tmp_path, points, 2, 4)
    told = json.loads((tmp_path / state.TRAINER_STATE).read_text())
    assert (told["global_step"], told["max_steps"]) == (0, 2)
    assert [entry["step"] for entry in told["log_history"]] == [1, 2]
    assert told["best_metric"] is None
    assert told["best_model_checkpoint"] is None


class Code:
    """What a pickle would run when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_pickle_is_refused_and_not_run(how: str, tmp_path: Path) -> None:
    path, ran = tmp_path / "optimizer.pt", tmp_path / "ran"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Code(ran)))
    else:
        torch.save({"state": Code(ran)}, path)
    with pytest.raises(StateError, match=r"optimizer\.pt of the state cannot be read"):
        state.load_torch(path)
    assert not ran.exists()
    pickle.loads(path.read_bytes()) if how == "pickle" else torch.load(path, weights_only=False)
    assert ran.exists(), "the bait must be able to bite"


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x03\x04 torn", b"\x80\x05N."])
def test_a_damaged_file_is_a_state_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "optimizer.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StateError) as caught:
        state.load_torch(path)
    assert "mvc fsck" in caught.value.hint


def test_a_cut_off_file_is_a_state_error(tmp_path: Path) -> None:
    state.write_torch(tmp_path, "optimizer.pt", {"a": torch.ones(1000)})
    path = tmp_path / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(StateError):
        state.load_torch(path)


def test_random_state_comes_back_in_all_three_generators(tmp_path: Path) -> None:
    state.write_torch(tmp_path, "rng_state.pth", rng.capture(1))

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw()
    assert draw() != first
    assert rng.restore(state.load_torch(tmp_path / "rng_state.pth"))
    assert draw() == first


def test_the_adapter_comes_back(
    stored: tuple[Path, PeftModel, torch.optim.Optimizer], new_adapter: Callable[..., PeftModel]
) -> None:
    folder, model, _ = stored
    other = new_adapter()
    state.check_adapter(folder, other)
    state.load_adapter(folder, other)
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, wanted[name]), name


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / state.ADAPTER)
    change(tensors)
    save_file(tensors, folder / state.ADAPTER)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a dtype", lambda t: t.update({min(t): t[min(t)].bfloat16()})),
        ("a shape", lambda t: t.update({min(t): t[min(t)].T.contiguous()})),
        ("one missing", lambda t: t.pop(min(t))),
        ("one more", lambda t: t.update({"base_model.model.extra": torch.ones(2)})),
        ("another name", lambda t: t.update({"base_model.model.other": t.pop(min(t))})),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    what: str,
    change: Callable[[dict[str, torch.Tensor]], Any],
    stored: tuple[Path, PeftModel, torch.optim.Optimizer],
) -> None:
    folder, model, _ = stored
    change_tensors(folder, change)
    with pytest.raises(StateError, match="does not fit the model") as caught:
        state.check_adapter(folder, model)
    assert "mvc.toml" in caught.value.hint


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64])
def test_an_adapter_that_is_none_is_refused(
    content: bytes | None, stored: tuple[Path, PeftModel, torch.optim.Optimizer]
) -> None:
    folder, model, _ = stored
    (folder / state.ADAPTER).unlink()
    if content is not None:
        (folder / state.ADAPTER).write_bytes(content)
    with pytest.raises(StateError, match="cannot be read"):
        state.check_adapter(folder, model)


def test_the_header_tells_shapes_and_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2, 3), "y": torch.ones(4, dtype=torch.bfloat16)}, path)
    assert state.adapter_header(path) == {"x": ([2, 3], "float32"), "y": ([4], "bfloat16")}


def test_moments_come_back_and_the_settings_rule_the_groups(
    stored: tuple[Path, PeftModel, torch.optim.Optimizer],
) -> None:
    folder, model, old = stored
    new = adam(model, lr=5e-4, weight_decay=0.3, betas=(0.8, 0.9))
    state.load_optimizer(folder, model, new)
    group = new.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (5e-4, 0.3, (0.8, 0.9))
    assert state.adam_steps(new) == (3,)
    for parameter, entry in old.state.items():
        assert torch.equal(new.state[parameter]["exp_avg"], entry["exp_avg"])
        assert torch.equal(new.state[parameter]["exp_avg_sq"], entry["exp_avg_sq"])


def change_parameters(folder: Path, change: Callable[[Any], Any]) -> None:
    path = folder / state.PARAMETERS
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda told: told["groups"][0].reverse(), "not the one that the moments belong to"),
        (lambda told: told["groups"][0].pop(), "not the one that the moments belong to"),
        (lambda told: told["groups"][0][0][1].reverse(), "not the one that the moments belong to"),
        (lambda told: told.pop("groups"), "not the one that the moments belong to"),
        (lambda told: told.update(optimizer="SGD"), "was trained with SGD, mvc.toml now asks"),
    ],
)
def test_moments_of_other_parameters_are_refused(
    change: Callable[[Any], Any],
    match: str,
    stored: tuple[Path, PeftModel, torch.optim.Optimizer],
) -> None:
    folder, model, _ = stored
    change_parameters(folder, change)
    with pytest.raises(StateError, match=match):
        state.load_optimizer(folder, model, adam(model))


@pytest.mark.parametrize("text", [None, "", "[1]", '"x"'])
def test_a_list_of_parameters_that_is_none_is_refused(
    text: str | None, stored: tuple[Path, PeftModel, torch.optim.Optimizer]
) -> None:
    folder, model, _ = stored
    (folder / state.PARAMETERS).unlink()
    if text is not None:
        (folder / state.PARAMETERS).write_text(text)
    with pytest.raises(StateError):
        state.load_optimizer(folder, model, adam(model))


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["state"].pop(0),
        lambda saved: saved["state"].clear(),
        lambda saved: saved.pop("state"),
        lambda saved: saved["state"].update({99: {}}),
        lambda saved: saved["state"][0].update(exp_avg=torch.ones(3, 3)),
        lambda saved: saved["state"].update({0: None}),
    ],
)
def test_moments_that_do_not_fit_are_refused(
    change: Callable[[Any], Any], stored: tuple[Path, PeftModel, torch.optim.Optimizer]
) -> None:
    folder, model, made = stored
    saved = made.state_dict()
    saved["state"] = dict(saved["state"])
    saved["state"][0] = dict(saved["state"][0])
    change(saved)
    state.write_torch(folder, state.OPTIMIZER, saved)
    with pytest.raises(StateError, match=r"optimizer\.pt"):
        state.load_optimizer(folder, model, adam(model))


def test_without_moments_none_are_made_up(
    stored: tuple[Path, PeftModel, torch.optim.Optimizer],
) -> None:
    folder, model, _ = stored
    (folder / state.OPTIMIZER).unlink()
    with pytest.raises(StateError, match=r"optimizer\.pt of the state cannot be read"):
        state.load_optimizer(folder, model, adam(model))


def test_only_what_training_does_not_change_is_carried_over(tmp_path: Path) -> None:
    for name in (state.OPTIMIZER, "rng_state_1.pth", "tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).write_text(name)
    (tmp_path / "checkpoint-4").mkdir()
    names = ("chat_template.jinja", "tokenizer.json")
    assert live.carried(tmp_path) == tuple((name, name.encode()) for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_adapter_s_bytes_are_those_of_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = {"b.weight": (3, 5), 'a "é"': (2, 2), "none": (0, 4), "scale": ()}
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    tensors["turned"] = torch.randn(600, 700).t().to(dtype)
    written = state.write_tensors(tmp_path, tensors)
    expected = save({k: v.contiguous() for k, v in tensors.items()}, metadata={"format": "pt"})
    assert (tmp_path / state.ADAPTER).read_bytes() == expected
    md5, sha256 = hashlib.md5(expected).hexdigest(), hashlib.sha256(expected).hexdigest()
    assert written == FileDigest(state.ADAPTER, len(expected), md5, sha256)
