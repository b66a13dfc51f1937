"""The README against the program: its session runs and prints what it says, figures aside."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import mvc
from mvc.cli import main
from tests.ops.conftest import SETS, write_batch
from tests.tiny import make_base

README = (Path(__file__).parents[1] / "README.md").read_text()


def session() -> Iterator[tuple[str, list[str]]]:
    """Each command of the README's session with the lines it prints."""
    (block,) = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *printed = part.rstrip("\n").split("\n")
        yield command, printed


def masked(line: str) -> str:
    """A line without what differs from run to run: hashes, numbers, curves, ages, spaces."""
    line = re.sub(r"[▁▂▃▄▅▆▇█]+", "CURVE", line)
    line = re.sub(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) \d{4}-\d\d-\d\d", "DAY", line)
    line = re.sub(r"\d{4}-\d\d-\d\d", "DATE", line)
    line = re.sub(r"just now|\d+ (?:min|h|s) ago|\d+ s ago", "AGE", line)
    line = re.sub(r"\b[0-9a-f]{10}\b", "HASH", line)
    line = re.sub(r"\b\d+m\d\ds|\b[\d.]+m?s\b", "TIME", line)
    line = re.sub(r"[-+]?\d[\d,.]*( ?[kMGT]?B\b|%)?", "N", line)
    return re.sub(r" +", " ", line).strip()


def test_the_session_prints_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_base(tmp_path / "base")
    for number, day in enumerate(("monday", "tuesday", "wednesday")):
        write_batch(tmp_path / f"{day}.jsonl", 8 * number)
    monkeypatch.chdir(tmp_path)
    ours = [word for value in (*SETS, "lora.r=8") for word in ("--set", value)]
    for command, printed in session():
        words = shlex.split(command)
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
            continue
        assert words[0] == "mvc", command
        if words[1] == "init":
            words = [str(base) if word == "smollm2-135m" else word for word in words] + ours
        assert main.run(words[1:]) == 0, command
        said = capsys.readouterr().out.replace(str(base), "smollm2-135m")
        said = said.replace(str(tmp_path.resolve()) + "/", "")
        lines = [masked(line) for line in said.splitlines() if line.strip()]
        wanted = [masked(line) for line in printed]
        if words[1] == "init":
            assert lines[: len(wanted)] == wanted
        else:
            assert lines == wanted, command


def test_every_command_is_in_the_readme_and_no_other() -> None:
    (table,) = re.findall(r"^## Commands\n(.*?)^\*\*A base", README, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`mvc ([a-z]+)", table)) == set(main.VERBS)


def test_the_python_face_offers_every_verb() -> None:
    from mvc.ops.model import Model

    missing = set(main.VERBS) - {name for name in dir(Model) if not name.startswith("_")}
    assert missing == {"init", "import", "clone", "demo", "watch"}
    assert mvc.open.__doc__
