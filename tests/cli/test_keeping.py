"""`mvc gc`, `pin` and `du` through the command line: what they print, their JSON, their codes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mvc.cli import main as boundary
from mvc.ops import checkout, snapshot
from tests.ops.lines import START, new_line

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        status = boundary.run([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five batches; the third pinned as a day."""
    at = new_line(tmp_path_factory.mktemp("keeping") / "m", 5)
    text = at.config.read_text().replace("undo = 10", "undo = 0")
    at.config.write_text(text)
    checkout.checkout(at, "@3")
    snapshot.snapshot(at, now=START + timedelta(days=1))
    checkout.checkout(at, "main")
    return at.root


def masked(text: str) -> str:
    """Without hashes and the trash's name; listings hold no hash of the machine."""
    text = re.sub(r"\b[0-9a-f]{10}\b", "HASH", text)
    return re.sub(r"\d{8}-\d{6}(-\d)?", "TRASH", text)


def test_the_whole_way(model: Path, run: Run, snapshot: SnapshotAssertion) -> None:
    told = []
    for words in (
        ("gc",),
        ("pin", "@2", "-m", "what we shipped"),
        ("pin",),
        ("gc", "--keep-last", 1, "--thin-last", 2, "-v"),
        ("gc", "--keep-last", 1, "--thin-last", 2, "--apply"),
        ("gc", "--keep-last", 1, "--thin-last", 2, "--apply"),
        ("du", "-n", 2),
        ("pin", "--remove", "@2"),
        ("gc", "--restore"),
        ("pin",),
    ):
        status, out, err = run("-C", model, *words)
        assert status == 0 and "Error" not in err, words
        told.append(f"$ mvc {' '.join(map(str, words))}\n{out}")
        if words[-1] == "--apply":
            log = run("-C", model, "log", "--json")[1]
            assert {c["batch"]: c["state"] for c in json.loads(log)} == {
                5: "whole", 4: "thin", 3: "whole", 2: "whole", 1: "absent", 0: "absent",
            }  # fmt: skip
            shown = run("-C", model, "log")[1]
            assert shown.count("(adapter only)") == 1 and shown.count("(state gone)") == 2
    assert masked("\n".join(told)) == snapshot


def test_json_documents(model: Path, run: Run) -> None:
    plan = json.loads(run("-C", model, "gc", "--json", "--keep-last", 1)[1])
    assert plan["applied"] is False and plan["trash"] is None
    first = plan["plan"]["rows"][0]
    assert (first["before"], first["after"]) == ("whole", "absent") and first["num_bytes"] > 0
    assert plan["plan"]["kept"][0]["reasons"] == ["branch main", "HEAD", "last"]
    words = ("--keep-last", 1, "--no-keep-snapshots", "--keep-tag", "v*")
    other = json.loads(run("-C", model, "gc", "--json", *words)[1])["plan"]["kept"]
    assert [(e["commit"]["batch"], e["state"]) for e in other] == [(5, "whole"), (3, "thin")]
    tag = ("-C", str(model), "tag", "v1", "main~3")
    subprocess.run(["git", *tag], check=True)
    other = json.loads(run("-C", model, "gc", "--json", *words)[1])["plan"]["kept"]
    assert (other[-1]["commit"]["batch"], other[-1]["state"]) == (2, "whole")
    other = json.loads(run("-C", model, "gc", "--json", *words[:-1], "w*")[1])["plan"]["kept"]
    assert (other[-1]["commit"]["batch"], other[-1]["state"]) == (2, "thin")
    subprocess.run(["git", "-C", str(model), "tag", "-d", "v1"], check=True)
    du = json.loads(run("-C", model, "du", "--json")[1])
    assert set(du["parts"]) == {"adapter", "moments", "data", "small"}
    assert sum(du["parts"].values()) + du["num_stray_bytes"] == du["num_bytes"]
    assert du["num_free_bytes"] is None and len(du["commits"]) == 6
    assert sum(day["num_bytes"] for day in du["days"]) == du["num_bytes"]
    made = json.loads(run("-C", model, "pin", "@4", "--json")[1])
    assert made["name"] == f"pin/{made['commit']['commit'][:10]}"
    assert [each["name"] for each in json.loads(run("-C", model, "pin", "--json")[1])] == [
        made["name"]
    ]
    run("-C", model, "pin", "--remove", "@4")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("gc", "--empty-trash"), 2, "add --apply"),
        (("gc", "--restore", "--apply"), 2, "the way back"),
        (("gc", "--restore", "nothing"), 1, "no trash nothing"),
        (("gc", "--keep-within", "a week"), 1, "no duration"),
        (("gc", "--remote", "nobody"), 1, "no remote 'nobody'"),
        (("pin", "--remove"), 2, "which revision"),
        (("pin", "--remove", "@1"), 1, "not pinned"),
        (("pin", "@77"), 1, "no batch 77"),
        (("du", "--remote", "nobody"), 1, "no remote 'nobody'"),
    ],
)
def test_wrong_uses(model: Path, run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    status, out, err = run("-C", model, *words)
    assert (status, out) == (code, "")
    assert said in err and "Hint:" in err
