"""Flags that are wrong, folders that are no model repo, an `mvc init` that fails.

Each is an Error with a Hint, exit code 1 or 2, no traceback, and not one byte of the repo moves.
Must-show 8 of issue 2, its third part.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.unchanged import Model, assert_refused, copy_of, make_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("bad-flags"))


@pytest.fixture
def model(trained: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return copy_of(trained, tmp_path_factory.mktemp("copy"))


FLAGS: dict[str, tuple[list[object], str]] = {
    "no process": (["train", "x.jsonl", "--nproc", 0], "--nproc"),
    "half a process": (["train", "x.jsonl", "--nproc", "1.5"], "--nproc"),
    "dump without dry-run": (["train", "x.jsonl", "--dump", "y"], "--dump needs --dry-run"),
    "dump into a folder": (["train", "x.jsonl", "--dry-run", "--dump", "."], "directory"),
    "train nothing": (["train"], "Missing argument"),
    "unknown command": (["trian"], "did you mean `mvc train`?"),
    "unknown flag": (["log", "--jsn"], "--json"),
    "a flag without its value": (["log", "-n"], "-n"),
    "no commit at all": (["log", "-n", "0"], "-n"),
    "three answers at once": (["log", "--json", "--csv"], "--plot, --csv and --json"),
    "one argument too many": (["checkout", "main", "main"], "unexpected extra argument"),
    "checkout nothing": (["checkout"], "Missing argument"),
    "init into a model repo": (["init", ".", "--base", "x"], "is a model repo already"),
    "init into a folder": (["init", ".git", "--base", "x"], "is not empty"),
    "init into a file": (["init", "mvc.toml", "--base", "x"], "is a file"),
    "init below a file": (["init", "mvc.toml/x", "--base", "{base}"], "mvc.toml/x"),
    "init without a base": (["init", "x"], "Missing option '--base'"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_wrong_flags(case: str, model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    args, told = FLAGS[case]
    assert_refused(capfd, model, [str(arg).format(base=model.base) for arg in args], told)


def test_dump_where_nothing_can_be_written(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    args = ["train", model.good, "--dry-run", "--dump", "no/such/folder/rows.jsonl"]
    assert_refused(capfd, model, args, "no/such/folder/rows.jsonl")


@pytest.mark.parametrize(
    "args",
    ["log", "status", "show", "checkout @1", "rollback @1", "snapshot", "fsck", "train x.jsonl"],
)
def test_outside_a_model_repo(
    args: str, model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capfd, model, ["-C", tmp_path, *args.split()], "is not inside a model repo")
    assert not list(tmp_path.iterdir())


INITS: dict[str, tuple[list[str], str]] = {
    "no such path": (["--base", "./no/such/base"], "no base model"),
    "an empty name": (["--base", ""], ""),
    "nearly an alias": (["--base", "smollm2-135n"], "did you mean smollm2-135m?"),
    "no such package": (["--base", "package:no_such_package"], "pip install"),
    "a package without a model": (["--base", "package:json"], "0 base models"),
    "a package that is a path": (["--base", "package:../x"], "package"),
    "a hub id without a network": (["--base", "no-org/no-model"], "cannot be fetched"),
    "a file": (["--base", "{file}"], "no .gguf"),
    "a damaged gguf": (["--base", "{gguf}"], "gguf"),
    "a folder without weights": (["--base", "{folder}"], "no model folder"),
    "an unknown key": (["--base", "{base}", "--set", "lora.rank=4"], "unknown key `lora.rank`"),
    "no value": (["--base", "{base}", "--set", "lora.r"], "is not KEY=VALUE"),
    "a wrong value": (["--base", "{base}", "--set", "lora.r=many"], "lora.r"),
    "no such module": (["--base", "{base}", "--set", 'lora.target_modules=["q"]'], "q"),
    "no such module to save": (
        ["--base", "{base}", "--set", 'lora.modules_to_save=["head"]'],
        "modules_to_save",
    ),
}


@pytest.mark.parametrize("case", INITS)
def test_an_init_that_fails_leaves_no_folder(
    case: str, model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags, told = INITS[case]
    (tmp_path / "base.gguf").write_bytes(b"GGUF" + bytes(100))
    (tmp_path / "folder").mkdir()
    places = {
        "base": str(model.base),
        "file": str(model.good),
        "gguf": str(tmp_path / "base.gguf"),
        "folder": str(tmp_path / "folder"),
    }
    for extra in ([], ["--json"]):
        args = ["init", tmp_path / "new", *(flag.format(**places) for flag in flags), *extra]
        assert_refused(capfd, model, args, told)
        assert not (tmp_path / "new").exists()
