"""`python -m mvc`, as torchrun starts it: nothing in the working directory is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mvc

ROOT = Path(__file__).parents[2]
PLANTED = ("click", "msgspec", "rich", "typing", "pathlib", "tomllib", "msvcrt", "torch", "psutil")


def run(at: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | more
    command = [sys.executable, "-m", "mvc", *args]
    return subprocess.run(command, cwd=at, env=env, capture_output=True, text=True, check=False)


def test_modules_of_a_cloned_repo_do_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "marker"
    (tmp_path / "repo").mkdir()
    for name in PLANTED:
        (tmp_path / "repo" / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write('{name} ')")
    for args in (("--version",), ("log",)):
        done = run(tmp_path / "repo", *args, PYTHONPATH=str(ROOT))
        assert "Traceback" not in done.stderr, done.stderr
        assert not mark.exists(), mark.read_text()
    assert "Hint:" in done.stderr


def test_a_source_checkout_is_found() -> None:
    done = run(ROOT, "--version", PYTHONPATH="")
    assert mvc.__version__ in done.stdout, done.stderr
