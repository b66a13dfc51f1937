"""What starting costs: modules that `mvc --help` and `mvc log` must not load, and their time."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli import fakes

HEAVY = ["torch", "transformers", "peft", "trl", "datasets", "accelerate", "dvc", "git", "plotext"]
# The limits are issue 2's; a machine that runs other tests meanwhile gets three times as much.
# Read here: the tests themselves run without the user's MVC_ variables.
SLACK = 1 if os.environ.get("MVC_STRICT_TIMING") else 3
RUN = """
import sys
from mvc.cli.main import run
status = run(sys.argv[1:])
print("MODULES", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(status)
"""


def loaded(*args: str, cwd: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *args], cwd=cwd, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split("MODULES ")[1].split())


def seconds(*args: str, cwd: Path) -> float:
    """The median of five runs, timed from outside."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "from mvc.cli.main import main; main()", *args],
            cwd=cwd,
            capture_output=True,
            check=True,
        )
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.long_repo(tmp_path_factory.mktemp("long") / "model", 200)


def test_help_loads_click_and_nothing_else(tmp_path: Path) -> None:
    modules = loaded("--help", cwd=tmp_path)
    assert "click" in modules
    assert modules.isdisjoint([*HEAVY, "rich", "msgspec", "tomlkit", "tomllib"])


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_log_loads_nothing_heavy(long: Path, flag: list[str]) -> None:
    assert loaded("log", *flag, cwd=long).isdisjoint(HEAVY)


def test_json_needs_no_rich(long: Path) -> None:
    assert "rich" not in loaded("log", "--json", cwd=long)


@pytest.mark.parametrize(("args", "limit"), [(["--help"], 0.15), (["log"], 0.4)])
def test_starting_is_fast(long: Path, args: list[str], limit: float) -> None:
    assert seconds(*args, cwd=long) < limit * SLACK
