"""Settings and revisions that are wrong, through the command line; a batch that fails.

Each is an Error with a Hint, exit code 1 or 2, no traceback, and not one byte of the repo moves.
Must-show 8 of issue 2, its second part; test_bad_data.py and test_bad_flags.py hold the others.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.unchanged import Model, assert_refused, call, copy_of, git, look, make_model
from tests.tiny import make_base


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("bad-input"))


@pytest.fixture
def model(trained: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return copy_of(trained, tmp_path_factory.mktemp("copy"))


# --- mvc.toml -------------------------------------------------------------------------------------


def put(key: str, value: str) -> Callable[[str], str]:
    """An edit: the line of `key` gets another value, as it stands."""

    def edit(text: str) -> str:
        new, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert count == 1, key
        return new

    return edit


def add(table: str, line: str) -> Callable[[str], str]:
    return lambda text: text.replace(f"[{table}]", f"[{table}]\n{line}", 1)


def both(*edits: Callable[[str], str]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        for each in edits:
            text = each(text)
        return text

    return edit


# What is wrong: (edit of mvc.toml, what the error must say)
CONFIGS: dict[str, tuple[Callable[[str], str], str]] = {
    "no toml": (lambda t: "[base\n", "mvc.toml: "),
    "an open string": (put("schedule", '"lin'), "mvc.toml: "),
    "a conflict of git": (lambda t: f"<<<<<<< HEAD\n{t}", "mvc.toml: "),
    "empty": (lambda t: "", "`base` is missing"),
    "without a base": (lambda t: re.sub(r"(?m)^model = .*$", "", t), "`base.model` is missing"),
    "an empty base": (put("model", '""'), "`base.model` is empty"),
    "unknown key": (add("train", "learning_rat = 1"), "did you mean `train.learning_rate`?"),
    "key of another table": (add("lora", "passes = 2"), "did you mean `train.passes`?"),
    "unknown table": (lambda t: t + "\n[trian]\n", "did you mean `train`?"),
    "a key twice": (add("train", "passes = 2"), "mvc.toml: "),
    "a table as a number": (lambda t: "train = 3\n" + t.replace("[train]", "[x]"), "train"),
    "rate as text": (put("learning_rate", '"fast"'), "`train.learning_rate`: expected"),
    "rate nan": (put("learning_rate", "nan"), "train.learning_rate"),
    "rate inf": (put("learning_rate", "inf"), "`train.learning_rate` is not a finite"),
    "rate negative": (put("learning_rate", "-1e-4"), "`train.learning_rate`: expected"),
    "rate zero": (put("learning_rate", "0.0"), "`train.learning_rate`: expected"),
    "decay negative": (put("weight_decay", "-0.1"), "train.weight_decay"),
    "norm nan": (put("max_grad_norm", "nan"), "train.max_grad_norm"),
    "dropout of one": (put("dropout", "1.0"), "lora.dropout"),
    "no micro-batch": (put("micro_batch_size", "0"), "train.micro_batch_size"),
    "half a micro-batch": (put("micro_batch_size", "1.5"), "train.micro_batch_size"),
    "passes as text": (put("passes", '"2"'), "train.passes"),
    "passes as a truth": (put("passes", "true"), "train.passes"),
    "rows too short": (put("max_length", "1"), "train.max_length"),
    "warm-up negative": (put("warmup_steps", "-1"), "train.warmup_steps"),
    "a seed too large": (put("seed", "99999999999999999999"), "train.seed"),
    "precision": (put("precision", '"fp8"'), "train.precision"),
    "logging never": (put("logging_steps", "0"), "train.logging_steps"),
    "packing as text": (put("packing", '"yes"'), "train.packing"),
    "unknown optimizer": (put("optimizer", '"adamw_tourch"'), "adamw_torch"),
    "an optimizer not installed": (put("optimizer", '"galore_adamw"'), "train.optimizer"),
    "optimizer args": (
        put("optimizer_args", '"momentum"'),
        "train.optimizer_args",
    ),
    "optimizer args unknown": (
        put("optimizer_args", '"momemtum=0.9"'),
        "train.optimizer_args",
    ),
    "another optimizer than before": (put("optimizer", '"adafactor"'), "train.optimizer"),
    "unknown schedule": (put("schedule", '"linaer"'), "train.schedule"),
    "no horizon": (put("schedule", '"cosine"'), "train.horizon_steps"),
    "a horizon within the warm-up": (
        both(put("schedule", '"linear"'), put("horizon_steps", "1")),
        "train.warmup_steps",
    ),
    "a horizon that is reached": (
        both(put("schedule", '"linear"'), put("horizon_steps", "4")),
        "the linear schedule ends at lifetime step 4: 0 steps are left",
    ),
    "a horizon inside the batch": (
        both(put("schedule", '"cosine"'), put("horizon_steps", "7")),
        "3 steps are left and this batch has 4",
    ),
    "schedule args unknown": (put("schedule_args", "{foo = 1}"), "train.schedule_args"),
    "schedule args of a type": (put("schedule_args", "[1]"), "train.schedule_args"),
    "schedule args of a wrong type": (
        both(put("schedule", '"inverse_sqrt"'), put("schedule_args", '{timescale = "x"}')),
        "train.schedule_args",
    ),
    "a horizon that only some schedules have": (
        both(
            put("schedule", '"warmup_stable_decay"'),
            put("horizon_steps", "100"),
            put("schedule_args", "{}"),
        ),
        "train.schedule_args",
    ),
    "another rank": (put("r", "8"), "put `r = 4` back under [lora]"),
    "another alpha": (put("alpha", "8"), "lora.alpha"),
    "dora": (put("use_dora", "true"), "lora.use_dora"),
    "other modules": (put("target_modules", '["q_proj"]'), "lora.target_modules"),
    "another base": (put("model", '"org/other"'), "base model org/other"),
    "another digest": (put("digest", '"00"'), "base.digest"),
    "assistant_only on text": (put("assistant_only", "true"), "train.assistant_only"),
    "bad zone": (put("zone", '"Mars/Olympus"'), "snapshot.zone"),
    "a zone that is a path": (put("zone", '"../../etc/passwd"'), "snapshot.zone"),
    "bad hour": (put("at", '"25:00"'), "snapshot.at"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_wrong_mvc_toml_trains_nothing(
    case: str, model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    edit, told = CONFIGS[case]
    config = model.root / "mvc.toml"
    config.write_text(edit(config.read_text()))
    assert_refused(capfd, model, ["train", model.good], told)


@pytest.mark.parametrize("verb", [["train"], ["rollback"], ["checkout"], ["snapshot"]])
@pytest.mark.parametrize("content", [b"\xff\xfe[\0", b"[base]\nmodel = \x00", None, "folder"])
def test_an_mvc_toml_that_cannot_be_read(
    verb: list[object],
    content: bytes | str | None,
    model: Model,
    capfd: pytest.CaptureFixture[str],
) -> None:
    args = {"train": [model.good], "snapshot": []}.get(str(verb[0]), ["@0"])
    config = model.root / "mvc.toml"
    config.unlink()
    if content == "folder":
        config.mkdir()
    elif isinstance(content, bytes):
        config.write_bytes(content)
    assert_refused(capfd, model, [*verb, *args], "mvc.toml")


def test_a_base_that_is_gone_or_another_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path)
    train: list[object] = ["train", model.good]
    away = model.base.rename(tmp_path / "away")
    assert_refused(capfd, model, train, "no base model")
    model.base.mkdir()
    assert_refused(capfd, model, train, "no model folder")
    shutil.copy2(away / "config.json", model.base)
    assert_refused(capfd, model, train, "no model folder")
    make_base(model.base, seed=1)
    assert_refused(capfd, model, train, "is another one than this line was trained on")
    shutil.copytree(away, model.base, dirs_exist_ok=True)
    weights = model.base / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert_refused(capfd, model, train, "is another one than this line was trained on")
    weights.write_bytes(content)
    # The line has a tokenizer of its own: another one beside the same weights changes nothing.
    (model.base / "tokenizer.json").write_text("{")
    assert call(capfd, "-C", model.root, *train).status == 0


# --- a batch that does not learn ------------------------------------------------------------------

FAILING = {
    "the loss becomes nan": (
        both(put("learning_rate", "1e30"), put("checkpoint_steps", "1")),
        "became nan",
    ),
    "the rate is too small to move a bit": (
        both(put("learning_rate", "1e-30"), put("checkpoint_steps", "1")),
        "not one weight of the adapter changed",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_batch_that_does_not_learn_leaves_nothing(
    case: str, model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    edit, told = FAILING[case]
    config = model.root / "mvc.toml"
    config.write_text(edit(config.read_text()))
    before = look(model.root)
    for flags in ([], ["--json"]):
        answer = call(capfd, "-C", model.root, "train", *flags, model.good)
        assert answer.status == 1, answer.err
        assert "Error: " in answer.err
        assert told in answer.err
        assert "Loss" in answer.err  # it did train
        assert "Traceback" not in answer.err
        assert answer.out in ("", "[]\n")
        assert look(model.root) == before
        assert not (model.root / ".mvc/run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (put("learning_rate", "1e30"), "became nan"),
        (put("optimizer_args", '"momemtum=0.9"'), "train.optimizer_args"),
    ],
)
def test_two_processes_that_fail_leave_nothing(
    edit: Callable[[str], str], told: str, model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    config = model.root / "mvc.toml"
    config.write_text(edit(config.read_text()))
    before = look(model.root)
    answer = call(capfd, "-C", model.root, "train", "--nproc", 2, model.good)
    assert answer.status == 1, answer.err
    assert told in answer.err
    assert "Hint: " in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert look(model.root) == before


# --- revisions ------------------------------------------------------------------------------------

SPECS = {
    "unknown": ("nope", "names no revision"),
    "nearly a branch": ("mian", "did you mean `main`?"),
    "empty": ("", "names no revision"),
    "blank": ("  ", "names no revision"),
    "a flag": ("-x", "no such option"),
    "a number too large": ("@99", "the nearest is `@1`"),
    "a negative number": ("@-1", "names no revision"),
    "half a number": ("@1.5", "names no revision"),
    "the future": ("2999-01-01", "the nearest day"),
    "before the first commit": ("2000-01-01", "the nearest day"),
    "a time before the first commit": ("2000-01-01T12:00", "the first one is `@0`"),
    "no such day": ("2026-02-30", "not in the calendar"),
    "no such month": ("2026-13-01", "not in the calendar"),
    "no such hour": ("2026-11-20T25:00", "not in the calendar"),
    "before the line": ("HEAD~99", "names no revision"),
    "a range": ("HEAD~1..HEAD", "names no revision"),
    "not a commit": ("^HEAD", "names no revision"),
    "an ambiguous hash": ("{ambiguous}", "begins several hashes"),
    "a short hash": ("abc", "names no revision"),
    "a blob": ("{blob}", "names no revision"),
    "a tree": ("HEAD^{{tree}}", "names no revision"),
    "a file": ("HEAD:mvc.toml", "names no revision"),
    "git's own memory": ("main@{{yesterday}}", "names no revision"),
    "control characters": ("ma\x1b[31min\x07", "names no revision"),
    "a line break": ("main\n@1", "names no revision"),
    "a command": ("$(touch {root}/x)", "names no revision"),
    "another command": ("`touch {root}/x`; touch {root}/x", "names no revision"),
    "a path": ("../../etc/passwd", "names no revision"),
    "very long": ("x" * 100_000, "names no revision"),
    "not in Unicode": ("\udcff", "names no revision"),
}


def _colliding(root: Path) -> str:
    """Four digits with which the hashes of two commits begin, found by birthday."""
    tree, seen = git(root, "rev-parse", "HEAD^{tree}"), dict[str, bytes]()
    for number in range(10**6):
        body = f"tree {tree}\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\n{number}\n".encode()
        start = hashlib.sha1(b"commit %d\0" % len(body) + body).hexdigest()[:4]
        if start in seen:
            for each in (seen[start], body):
                git(root, "hash-object", "-t", "commit", "-w", "--stdin", stdin=each)
            return start
        seen[start] = body
    raise AssertionError


@pytest.fixture(scope="module")
def named(trained: Model) -> dict[str, str]:
    """What the specs' braces stand for."""
    return {
        "root": str(trained.root),
        "blob": git(trained.root, "rev-parse", "HEAD:mvc.toml"),
        "ambiguous": _colliding(trained.root),
    }


@pytest.mark.parametrize("case", SPECS)
def test_a_revision_that_names_nothing(
    case: str, trained: Model, named: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    spec, told = SPECS[case]
    for verb in ("checkout", "show", "log", "rollback"):
        assert_refused(capfd, trained, [verb, spec.format(**named)], told)
    assert_refused(capfd, trained, ["log", "--json", spec.format(**named)], told)
    assert not (trained.root / "x").exists()


def test_a_commit_without_a_state(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    """A commit that someone made by hand on a line of its own."""
    tree = git(model.root, "mktree", stdin=b"")
    foreign = git(model.root, "commit-tree", tree, "-m", "mine")
    for verb in ("checkout", "rollback", "show"):
        assert_refused(capfd, model, [verb, foreign], "holds no ")


def test_a_rollback_to_the_present_state(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(capfd, model, ["rollback", "@1"], "has the state of @1 already")
