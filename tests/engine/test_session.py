"""The base in memory: kept between batches without a changed bit, checked before it is used."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from mvc.engine import base as bases
from mvc.engine import session as sessions
from mvc.engine import state
from mvc.errors import BaseModelError, ConfigError, StateError
from mvc.settings import BaseSettings, LoraSettings, Settings, TrainSettings
from tests.tiny import make_base


def settings_of(folder: Path, **lora: object) -> Settings:
    digest = bases.resolve(str(folder)).digest
    return Settings(
        base=BaseSettings(model=str(folder), digest=digest),
        lora=LoraSettings(**{"r": 4, **lora}),  # type: ignore[arg-type]
        train=TrainSettings(precision="fp32"),
    )


def create(settings: Settings, folder: Path) -> int:
    folder.mkdir()
    _, num_parameters = sessions.create(settings, folder, folder)
    return num_parameters


def bits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_the_base_is_loaded_once_and_comes_back_unchanged(
    lora: dict[str, object],
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(tiny_base, **lora)
    create(settings, tmp_path / "state")
    loaded = []
    real = bases.load_model
    monkeypatch.setattr(
        bases, "load_model", lambda *a, **k: loaded.append(real(*a, **k)) or loaded[-1]
    )
    session = sessions.Session(tmp_path)
    before: dict[str, torch.Tensor] = {}
    for _ in range(3):
        with session.adapter(settings, tmp_path / "state") as model:
            trainable = [p for p in model.parameters() if p.requires_grad]
            tokens = torch.arange(8)[None]
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.optim.SGD(trainable, lr=0.1).step()
        after = bits(session._base[1])  # type: ignore[index]
        before = before or bits(real(session.base(settings), "fp32"))
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
    assert len(loaded) == 1


def test_after_an_error_the_base_is_loaded_anew(tiny_base: Path, tmp_path: Path) -> None:
    settings = settings_of(tiny_base)
    create(settings, tmp_path / "state")
    session = sessions.Session(tmp_path)
    with session.adapter(settings, tmp_path / "state"):
        pass
    assert session._base is not None
    with (
        pytest.raises(RuntimeError, match="broke"),
        session.adapter(settings, tmp_path / "state"),
    ):
        raise RuntimeError("broke")
    assert session._base is None
    gc.collect()
    with session.adapter(settings, tmp_path / "state") as model:
        assert len(state.trainable(model)) == 28


def test_another_base_under_the_same_name_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    settings = settings_of(base)
    create(settings, tmp_path / "state")
    make_base(base, seed=1)
    session = sessions.Session(tmp_path)
    with (
        pytest.raises(BaseModelError, match="is another one than this line") as caught,
        session.adapter(settings, tmp_path / "state"),
    ):
        pass
    assert "mvc init" in caught.value.hint


def test_a_change_of_the_tokenizer_alone_is_no_other_base(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    settings = settings_of(base)
    (base / "tokenizer_config.json").write_text((base / "tokenizer_config.json").read_text() + "\n")
    assert sessions.Session(tmp_path).base(settings).digest == settings.base.digest


@pytest.mark.parametrize(
    "lora", [{"target_modules": ["nonsense"]}, {"target_modules": "nonsense.*"}]
)
def test_target_modules_that_the_base_has_not_are_a_config_error(
    lora: dict[str, object], tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="LoRA cannot be put on") as caught:
        create(settings_of(tiny_base, **lora), tmp_path / "state")
    assert "target_modules" in caught.value.hint


def test_the_untrained_state_is_whole_and_depends_on_the_seed_alone(
    tiny_base: Path, tmp_path: Path
) -> None:
    settings = settings_of(tiny_base)
    num_parameters = create(settings, tmp_path / "one")
    torch.rand(5)
    create(settings, tmp_path / "two")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    header = state.adapter_header(tmp_path / "one" / state.ADAPTER)
    assert num_parameters == sum(shape[0] * shape[1] for shape, _ in header.values())
    assert {dtype for _, dtype in header.values()} == {"float32"}
    assert {"adapter_config.json", "tokenizer.json", "trainer_state.json"} <= one.keys()
    assert not {"optimizer.pt", "training_args.bin", "README.md"} & one.keys()


def test_a_state_without_its_adapter_config_is_a_state_error(
    tiny_base: Path, tmp_path: Path
) -> None:
    settings = settings_of(tiny_base)
    create(settings, tmp_path / "state")
    (tmp_path / "state" / state.ADAPTER_CONFIG).unlink()
    with (
        pytest.raises(StateError, match=r"adapter_config\.json"),
        sessions.Session(tmp_path).adapter(settings, tmp_path / "state"),
    ):
        pass


def test_dropout_is_mvc_toml_s_and_the_shape_the_state_s(tiny_base: Path, tmp_path: Path) -> None:
    create(settings_of(tiny_base), tmp_path / "state")
    with sessions.Session(tmp_path).adapter(
        settings_of(tiny_base, dropout=0.25), tmp_path / "state"
    ) as model:
        dropouts = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
        assert dropouts == {0.25}
        assert model.peft_config["default"].lora_dropout == 0.25
