"""The error boundary, the group and its help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mvc.cli import main as boundary
from mvc.errors import DataError, Interrupted, MvcError, UsageError
from tests.cli.fakes import Fake

MVC = [sys.executable, "-c", "from mvc.cli.main import main; main()"]


def mvc(*args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MVC, *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def raising(error: BaseException) -> Fake:
    def status(layout: object) -> None:
        raise error

    return Fake(status=status)


def caused(error: MvcError, cause: BaseException) -> MvcError:
    error.__cause__ = cause
    return error


def test_a_process_ends_without_looking_for_cycles() -> None:
    last = "import atexit, gc; atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0))"
    code = f"{last}; from mvc.cli.main import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("frozen True\n")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (DataError("bad.jsonl, line 3: no JSON", "fix line 3"), 1, "Error: bad.jsonl, line 3"),
        (UsageError("--a without --b", "add --b"), 2, "Hint: add --b"),
        (Interrupted("stopped at step 5", "run it again"), 130, "Hint: run it again"),
        (KeyboardInterrupt(), 130, "Hint: run the same command again"),
        (ZeroDivisionError("division by zero"), 255, "Hint: this is a bug of ours"),
        (
            caused(DataError("no", "yes"), caused(MvcError("a", "b"), OSError(5, "Input"))),
            1,
            "Caused by: MvcError: a\nCaused by: OSError: [Errno 5] Input\nHint: yes",
        ),
    ],
)
def test_every_error_ends_with_its_code_and_a_hint(
    error: BaseException,
    status: int,
    told: str,
    repo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raising(error).install(monkeypatch)
    assert boundary.run(["-C", str(repo), "status"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert "Error: " in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(ZeroDivisionError("x")).install(monkeypatch)
    assert boundary.run(["--debug", "-C", str(repo), "status"]) == 255
    assert "Traceback" in capsys.readouterr().err


def test_an_error_message_cannot_steer_the_terminal(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(DataError("a\x1b[2Jb", "c")).install(monkeypatch)
    boundary.run(["-C", str(repo), "status"])
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["chekout"], "did you mean `mvc checkout`?"),
        (["zzz"], "`mvc --help` shows"),
        (["--bogus"], "No such option"),
        (["log", "--jsn"], "`mvc log --help` shows"),
        (["log", "-n", "0"], "Invalid value"),
        (["log", "--csv", "--json"], "with one of them"),
        (["train"], "Missing argument 'FILE...'"),
        (["train", "x", "--dump", "y"], "--dump needs --dry-run"),
        (["init"], "Missing option '--base'"),
        (["-C", "no-such-folder", "log"], "does not exist"),
    ],
)
def test_wrong_use_ends_with_2_and_a_hint(
    args: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert boundary.run(args) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Hint: " in err


@pytest.mark.parametrize("verb", boundary.VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert boundary.run([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example" in out
    assert f"mvc {verb}" in out


def test_outside_a_model_repo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert boundary.run(["log"]) == 1
    assert "mvc init" in capsys.readouterr().err


def test_version_help_and_completion_from_outside() -> None:
    assert mvc("--version").stdout.startswith("mvc 0.")
    assert "rollback" in mvc("--help").stdout
    assert "complete" in mvc(_MVC_COMPLETE="bash_source").stdout
    assert (
        "checkout"
        in mvc(_MVC_COMPLETE="bash_complete", COMP_WORDS="mvc che", COMP_CWORD="1").stdout
    )
    bare = mvc()
    assert bare.returncode == 2
    assert "Usage:" in bare.stderr


def test_a_reader_that_goes_away_is_no_error(line: Path) -> None:
    command = " ".join(f"'{word}'" for word in MVC)
    done = subprocess.run(
        ["bash", "-c", f"{command} log --csv; true; {command} log | head -n 1"],
        cwd=line,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    read, write = os.pipe()
    os.close(read)
    gone = subprocess.run([*MVC, "log", "--json"], cwd=line, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert gone.stderr == b""
    assert gone.returncode == 1


def test_no_color_and_narrow_encodings(line: Path) -> None:
    plain = mvc("log", cwd=line, NO_COLOR="1", FORCE_COLOR="1")
    assert "\x1b" not in plain.stdout
    ascii_only = mvc("log", cwd=line, PYTHONIOENCODING="ascii")
    assert ascii_only.returncode == 0
    assert "@1" in ascii_only.stdout


def test_the_first_signal_asks_and_the_second_ends() -> None:
    from mvc.cli.stopping import graceful

    before = signal.getsignal(signal.SIGINT)
    with graceful() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
