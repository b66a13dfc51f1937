"""mvc.toml: what is accepted, what is refused and in which words, what an edit leaves alone."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import ConfigError, MvcError, UsageError
from mvc.settings import BaseSettings, Settings
from mvc.store import config
from mvc.store.layout import Layout

BASE = BaseSettings(model="tiny", revision="abc", digest="sha256:0")
MINIMAL = '[base]\nmodel = "tiny"\n'


def test_the_new_file_holds_every_key_with_its_default_and_a_comment() -> None:
    text = config.new_text(BASE)
    assert config.parse(text) == Settings(base=BASE)
    written = {table: set(keys) for table, keys in tomllib.loads(text).items()}
    assert written == {table: set(keys) for table, keys in config._TABLES.items()}
    assert all("#" in line for line in text.splitlines() if line)
    assert max(map(len, text.splitlines())) <= 100


@settings(max_examples=30)
@given(st.text(min_size=1))
def test_any_base_is_quoted(model: str) -> None:
    assert config.parse(config.new_text(BaseSettings(model=model))).base.model == model


def test_an_absent_table_has_its_defaults() -> None:
    assert config.parse(MINIMAL) == Settings(base=BaseSettings(model="tiny"))


def test_an_int_serves_as_float() -> None:
    rate = config.parse(MINIMAL + "[train]\nlearning_rate = 1\n").train.learning_rate
    assert rate == 1.0
    assert isinstance(rate, float)


WRONG = [
    # text after [base], what the message says, what the hint says
    (
        "[train]\nlearning_rat = 1",
        "line 4: unknown key `train.learning_rat`",
        "`train.learning_rate`",
    ),
    ("[train]\n\npasses = 1\nsede = 1", "line 6: unknown key `train.sede`", "`train.seed`"),
    ("learning_rate = 1", "line 3: unknown key `base.learning_rate`", "`train.learning_rate`"),
    ("[trian]\nx = 1", "line 3: unknown key `trian`", "`train`"),
    ("[zzz]\nx = 1", "unknown key `zzz`", "[base], [lora], [train], [snapshot]"),
    ("[lora]\nzzzzzz = 1", "unknown key `lora.zzzzzz`", "[lora] knows r, alpha"),
    ("train.sede = 1", "unknown key", ""),
    (
        "[train]\nlearning_rate = 0",
        "`train.learning_rate`: expected `float` > 0",
        "default is 0.0002",
    ),
    ("[train]\nlearning_rate = nan", "`train.learning_rate`: expected `float`", "0.0002"),
    ("[train]\nlearning_rate = inf", "line 4: `train.learning_rate` is not a finite", "2e-4"),
    ("[train]\nweight_decay = inf", "`train.weight_decay` is not a finite", ""),
    ('[train]\nlearning_rate = "1e-3"', "expected `float`, got `str`", "train.learning_rate"),
    ("[train]\npacking = 1", "`train.packing`: expected `bool`, got `int`", "true"),
    ("[train]\nseed = 2147483648", "expected `int` <= 2147483647", "42"),
    ("[train]\npasses = 0", "expected `int` >= 1", "1"),
    ("[train]\npasses = true", "expected `int`, got `bool`", ""),
    ("[train]\nmax_length = 4", "expected `int` >= 8", "1024"),
    ('[train]\nschedule = "lin"', "invalid enum value 'lin'", '"constant_with_warmup"'),
    ("[train]\nschedule_args = {a = [1]}", "`train.schedule_args`: expected", "schedule_args"),
    ("train = 3", "base.train", ""),
    ("[lora]\ndropout = 1.0", "expected `float` < 1", ""),
    ("[lora]\ntarget_modules = 3", "expected `str | list`, got `int`", '"all-linear"'),
    ("[lora]\ntarget_modules = [1]", "`lora.target_modules`: expected `str`", ""),
    ("[lora]\ntarget_modules = []", "line 4: `lora.target_modules` names no module", "all-linear"),
    ('[lora]\ntarget_modules = "(a+)+!"', "is a pattern", "all-linear"),
    ('[lora]\ntarget_modules = ""', "names no module", "all-linear"),
    ('[train]\nschedule = "linear"', "`train.horizon_steps` is 0", 'schedule_scope = "batch"'),
    ('[train]\nschedule = "cosine"\nhorizon_steps = 20', "not below horizon_steps = 20", "shorter"),
    ('[snapshot]\nat = "25:00"', 'line 4: `snapshot.at` is "25:00"', "HH:MM"),
    ('[snapshot]\nat = "3:00"', "`snapshot.at`", "HH:MM"),
    ('[snapshot]\nat = "0 3 * *"', "`snapshot.at`", "cron"),
    ('[snapshot]\nat = "0 25 * * *"', "`snapshot.at`", "cron"),
    ('[snapshot]\nat = "0 3 31 2 *"', "`snapshot.at`", "cron"),
    ("[snapshot]\nat = 03:00:00", "`snapshot.at`: expected `str`", '"03:00"'),
    ('[snapshot]\nzone = "Mars/Olympus"', "no known zone", "Europe/Berlin"),
    ('[snapshot]\nzone = "../../etc/passwd"', "no known zone", "Europe/Berlin"),
    ("[train\n", "line 3", "line"),
    ("[base]\n", "line 3", ""),
    ('model = "again"', "line 3", ""),
]


@pytest.mark.parametrize(("text", "message", "hint"), WRONG)
def test_refuses(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(MINIMAL + text + "\n")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.message.startswith("mvc.toml")
    assert "object" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`base` is missing"),
        ("[base]\n", "`base.model` is missing"),
        ('[base]\nmodel = ""', "`base.model` is empty"),
        ("base = 3", "`base`: expected a table, got `int`"),
    ],
)
def test_refuses_without_a_base(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"mvc\.toml") as caught:
        config.parse(text)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        '[train]\nschedule = "linear"\nhorizon_steps = 1000',
        '[train]\nschedule = "cosine"\nschedule_scope = "batch"',
        '[train]\nschedule = "inverse_sqrt"',
        '[snapshot]\nat = "23:59"',
        '[snapshot]\nat = "*/10 3-5 * * MON,FRI"\nzone = "Asia/Kathmandu"',
        '[lora]\ntarget_modules = ["q_proj"]\nmodules_to_save = ["lm_head"]',
        'train.schedule_args = {min_lr_rate = 0.1, num_cycles = 2, kind = "x"}',
    ],
)
def test_accepts(text: str) -> None:
    config.parse('base.model = "tiny"\n' + text)


def test_load(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(layout)
    layout.config.write_bytes(b'[base]\nmodel = "\xff"\n')
    with pytest.raises(ConfigError, match=r"not UTF-8 \(byte 16\)"):
        config.load(layout)
    layout.config.write_text(MINIMAL)
    assert config.load(layout).base.model == "tiny"


@pytest.mark.parametrize(
    ("edit", "read"),
    [
        ("train.learning_rate=1e-3", lambda s: s.train.learning_rate == 1e-3),
        ("train.learning_rate = 1", lambda s: s.train.learning_rate == 1),
        (
            'lora.target_modules=["q_proj","v_proj"]',
            lambda s: s.lora.target_modules == ["q_proj", "v_proj"],
        ),
        ("lora.target_modules=q_proj", lambda s: s.lora.target_modules == "q_proj"),
        ("train.schedule=inverse_sqrt", lambda s: s.train.schedule == "inverse_sqrt"),
        ('train.schedule="inverse_sqrt"', lambda s: s.train.schedule == "inverse_sqrt"),
        ("train.packing=false", lambda s: s.train.packing is False),
        ("train.optimizer_args=momentum=0.9", lambda s: s.train.optimizer_args == "momentum=0.9"),
        (
            "train.schedule_args={min_lr_rate = 0.1}",
            lambda s: s.train.schedule_args == {"min_lr_rate": 0.1},
        ),
        ("base.revision=1234567", lambda s: s.base.revision == "1234567"),
        ("base.revision=1e10", lambda s: s.base.revision == "1e10"),
        ("snapshot.at=04:30", lambda s: s.snapshot.at == "04:30"),
        ("snapshot.zone=Europe/Berlin", lambda s: s.snapshot.zone == "Europe/Berlin"),
        ("snapshot.zone=", lambda s: s.snapshot.zone == ""),
        ('base.model=a"b\\c', lambda s: s.base.model == 'a"b\\c'),
    ],
)
def test_an_edit_changes_one_line_and_keeps_its_comment(
    edit: str, read: Callable[[Settings], bool]
) -> None:
    before = config.new_text(BASE).splitlines()
    after = config.new_text(BASE, [edit]).splitlines()
    assert read(config.parse("\n".join(after)))
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert all(old.split("  #")[-1] == new.split("  #")[-1] for old, new in changed)
    assert len(changed) == (0 if edit == "snapshot.zone=" else 1)


def test_an_edit_adds_what_the_file_leaves_out() -> None:
    text = config.set_values("# mine\n" + MINIMAL, ["train.seed=7", "train.passes=2"])
    assert text.startswith("# mine\n")
    assert config.parse(text).train.seed == 7
    assert config.parse(text).train.passes == 2


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        ("train.learning_rat=1", ConfigError, "`train.learning_rate`"),
        ("learning_rate=1", ConfigError, "`train.learning_rate`"),
        ("=1", ConfigError, "tables"),
        ("train=1", ConfigError, "train"),
        ("train.learning_rate", UsageError, "--set"),
        ("", UsageError, "--set"),
        ("train.learning_rate=fast", ConfigError, "train.learning_rate"),
        ("train.packing=True", ConfigError, "train.packing"),
        ("train.passes=1\nx = 2", ConfigError, "train.passes"),
        ("train.schedule=linear", ConfigError, "schedule_scope"),
        ("snapshot.zone=Nowhere", ConfigError, "Berlin"),
    ],
)
def test_refuses_an_edit(edit: str, kind: type[MvcError], words: str) -> None:
    with pytest.raises(kind) as caught:
        config.new_text(BASE, [edit])
    assert words in caught.value.hint


def test_an_edit_of_no_toml() -> None:
    with pytest.raises(ConfigError, match=r"mvc\.toml"):
        config.set_values("[base", ["train.seed=1"])


@pytest.mark.parametrize(
    "edit",
    [
        "base.digest=sha256:1",
        "lora.r=8",
        "lora.alpha=8",
        "lora.target_modules=q_proj",
        'lora.target_modules=["a"]',
        'lora.modules_to_save=["lm_head"]',
        "lora.use_dora=true",
        "lora.use_rslora=true",
    ],
)
def test_what_a_line_fixes(edit: str) -> None:
    line = config.parse(config.new_text(BASE))
    now = config.parse(config.new_text(BASE, [edit]))
    with pytest.raises(ConfigError) as caught:
        config.check_line(now, line)
    assert f"`{edit.split('=')[0]}` is" in caught.value.message
    assert "back under" in caught.value.hint
    assert "mvc init" in caught.value.hint


@pytest.mark.parametrize("edit", ["base.model=/elsewhere/base", "base.revision=def"])
def test_the_same_weights_may_have_another_name(edit: str) -> None:
    """The digest, checked at every load, is what makes a base the same one."""
    line = config.parse(config.new_text(BASE))
    config.check_line(config.parse(config.new_text(BASE, [edit])), line)


def test_what_may_change_on_a_line() -> None:
    lists = ['lora.target_modules=["a", "b"]', 'lora.target_modules=["b", "a"]']
    line = config.parse(config.new_text(BASE, lists[:1]))
    edits = ["lora.dropout=0.1", "train.learning_rate=1", "train.optimizer=adafactor", lists[1]]
    config.check_line(config.parse(config.new_text(BASE, edits)), line)


def test_zone(set_zone: Callable[[str], None]) -> None:
    own = config.parse(MINIMAL)
    assert config.zone(own).key == "UTC"
    set_zone("Asia/Kathmandu")
    assert config.zone(own).key == "Asia/Kathmandu"
    assert config.zone(config.parse(MINIMAL + '[snapshot]\nzone = "UTC"')).key == "UTC"
    set_zone("Nowhere/AtAll")
    with pytest.raises(ConfigError, match="time zone") as caught:
        config.zone(own)
    assert "mvc.toml" in caught.value.hint
