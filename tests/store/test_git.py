"""Reading what git prints while it prints it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mvc.errors import StoreError
from mvc.store import git


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def says(root: Path, script: str) -> list[str]:
    """The cells of a git alias that runs `script`."""
    return list(git.read_cells(root, "-c", f"alias.say=!{script}", "say"))


def test_cells_across_pieces(root: Path) -> None:
    """More than one read of the pipe, a letter of two bytes where they meet."""
    cells = [f"{number}é" * 900 for number in range(200)]
    (root / "told").write_bytes("".join(f"{cell}\0" for cell in cells).encode())
    assert says(root, "cat told") == cells


def test_a_git_that_complains_at_length(root: Path) -> None:
    """More than the pipe of stderr holds, before a word on stdout: it must not wait for ever."""
    complains = "head -c 1000000 /dev/zero | tr '\\0' x >&2; printf 'a\\0b\\0'"
    assert says(root, complains) == ["a", "b"]


def test_what_it_failed_with(root: Path) -> None:
    with pytest.raises(git.GitFailed) as failed:
        says(root, "printf 'a\\0'; echo fatal: lost >&2; exit 3; #")
    assert (failed.value.status, failed.value.stderr) == (3, "fatal: lost\n")


def test_a_reader_that_has_enough(root: Path) -> None:
    """git is not left behind, writing to nobody."""
    cells = git.read_cells(root, "-c", "alias.say=!yes | tr '\\n' '\\0'", "say")
    assert next(cells) == "y"
    cells.close()  # type: ignore[attr-defined]


def test_no_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(StoreError, match="git is not installed"):
        list(git.read_cells(root, "version"))
