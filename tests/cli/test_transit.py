"""`mvc import` and `mvc export`: what they pass on, what they print, their JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mvc.cli import main
from tests.cli.fakes import Fake
from tests.render.test_transit import EXPORTED, IMPORTED


class Called:
    """A verb that remembers how it was called."""

    def __init__(self, result: object) -> None:
        self.result = result
        self.args: tuple[Any, ...] = ()
        self.flags: dict[str, Any] = {}

    def __call__(self, *args: Any, **flags: Any) -> object:
        self.args, self.flags = args, flags
        return self.result


def test_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    verb = Called(IMPORTED)
    Fake(import_=verb).install(monkeypatch)
    assert main.run(["import", "bot", "new", "--base", "tiny", "--set", "lora.r=4"]) == 0
    assert verb.args == (Path("bot"), Path("new"), "tiny")
    assert (verb.flags["sets"], verb.flags["revision"]) == (("lora.r=4",), "")
    assert verb.flags["trust_remote_code"] is False
    assert capsys.readouterr().out.startswith("Made my-model\n")
    assert main.run(["import", "bot", "--base", "tiny", "--json"]) == 0
    assert verb.args[1] == Path()
    told = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in told["commits"]] == ["import", "import"]
    assert main.run(["import", "bot"]) == 2
    assert "--base" in capsys.readouterr().err


def test_export(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = Called(EXPORTED)
    Fake(export=verb).install(monkeypatch)
    assert main.run(["-C", str(repo), "export", "2026-11-20", "friday", "--merged"]) == 0
    assert (verb.args[0].root, verb.args[1:]) == (repo, ("2026-11-20", Path("friday")))
    assert verb.flags["merged"] is True
    assert capsys.readouterr().out.startswith("Wrote @2")
    assert main.run(["-C", str(repo), "export", "HEAD", "friday", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["folder"], told["files"], told["bytes"]) == ("friday", 10, 968_000_000)
    assert told["commit"]["batch"] == 2
