"""`mvc watch`: its flags, and what it passes on; the daemon itself is tests/daemon's."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mvc.cli import main as boundary
from mvc.cli.stopping import woken
from mvc.daemon import control, status
from mvc.daemon.logs import DaemonProgress
from mvc.errors import LockHeld
from mvc.store.layout import Layout
from mvc.types import BatchResult
from tests.cli.test_imports import HEAVY, loaded
from tests.daemon.test_status import report
from tests.render import samples as s
from tests.render.test_progress import Terminal

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        code = boundary.run([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


class Loop:
    """Stands in for `mvc.daemon.loop`, which needs torch: a daemon that trains one batch."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, []

    def run(self, at: Layout, inbox: Path, **more: Any) -> None:
        self.calls.append((at, inbox, more))
        options = {key: more[key] for key in ("metrics_port", "on_status")}
        with DaemonProgress(at, inbox, more["progress"], **options) as told:
            told.start("monday.jsonl", 12, 0)
            told.step(report(1))
            if self.error:
                raise self.error
            told.committed(BatchResult(s.FOUR))


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr("mvc.daemon.loop", loop, raising=False)
    monkeypatch.setitem(sys.modules, "mvc.daemon.loop", loop)
    return loop


def test_it_runs_with_its_flags_and_tells_in_plain_lines(repo: Path, run: Run, loop: Loop) -> None:
    (repo / "inbox").mkdir()
    code, out, err = run("-C", repo, "watch", "inbox", "--once", "--metrics", 0)
    assert code == 0
    ((at, inbox, more),) = loop.calls
    assert (at.root, inbox) == (repo.resolve(), repo.resolve() / "inbox")
    assert (more["once"], more["metrics_port"]) == (True, 0)
    assert not more["should_stop"]()
    assert not more["wake"].is_set()
    assert "step 1/12  Loss 2.5000" in err
    assert "Committed @3" in err
    assert out.startswith("Trained 1 batch in ")


def test_in_a_terminal_it_draws(
    repo: Path, run: Run, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    code, out, _ = run("-C", repo, "watch", repo / "inbox")
    assert code == 0
    assert loop.calls[0][2]["progress"] is None
    assert terminal.getvalue().startswith("\x1b[?1049h")
    assert "\x1b[?1049l" in terminal.getvalue()
    assert "Trained 1 batch" in out


def test_an_error_is_told_and_the_terminal_given_back(
    repo: Path, run: Run, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    loop.error = LockHeld("this repo has a daemon already", "`mvc watch --status` tells")
    assert run("-C", repo, "watch", repo / "inbox")[0] == 1
    told = terminal.getvalue()
    assert told.index("\x1b[?1049l") < told.index("this repo has a daemon already")


def test_sighup_wakes_and_does_not_end() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with woken() as wake:
        assert not wake.is_set()
        os.kill(os.getpid(), signal.SIGHUP)
        assert wake.wait(5)
    assert signal.getsignal(signal.SIGHUP) is before


def test_sighup_while_the_event_is_locked_is_no_deadlock() -> None:
    """The handler may run while the main thread is inside `wait` or `clear`."""

    def too_late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(5)
    try:
        with woken() as wake:
            with wake._cond:  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGHUP)
            assert wake.wait(5)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("watch", "no INBOX is given"),
        ("watch --once", "no INBOX is given"),
        ("watch --install", "no INBOX is given"),
        ("watch --status --pause", "--status goes with no other flag"),
        ("watch --pause --once", "--pause goes with no other flag"),
        ("watch --resume --metrics 1", "--resume goes with no other flag"),
        ("watch inbox --status", "--status needs no INBOX"),
        ("watch inbox --json", "--json needs --status"),
        ("watch inbox --once --install", "without --once"),
        ("watch inbox --metrics 70000", "--metrics"),
        ("watch mvc.toml", "is a file"),
    ],
)
def test_flags_that_contradict(args: str, said: str, repo: Path, run: Run) -> None:
    code, out, err = run("-C", repo, *args.split())
    assert (code, out) == (2, "")
    assert said in err
    assert "Hint: " in err
    assert not (repo / ".mvc").exists()


def test_status_of_a_repo_without_a_daemon(repo: Path, run: Run) -> None:
    code, out, _ = run("-C", repo, "watch", "--status")
    assert code == 1
    assert "! no daemon has run here yet" in out
    code, out, err = run("-C", repo, "watch", "--status", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out) == {
        "alive": False,
        "well": False,
        "trouble": "no daemon has run here yet",
        "daemon": None,
        "seconds_since_step": None,
    }


def test_status_of_a_daemon(repo: Path, run: Run) -> None:
    at = Layout(repo)
    with DaemonProgress(at, Path("/inbox")) as told:
        told.start("monday.jsonl", 12, 0)
        told.step(report(1))
        told.queue(["tuesday.jsonl"])
        code, out, err = run("-C", repo, "watch", "--status")
        assert (code, err) == (0, "")
        for part in ("`mvc watch /inbox`", "monday.jsonl, step 1 of 12", "1 file: tuesday.jsonl"):
            assert part in out
        code, out, _ = run("-C", repo, "watch", "--status", "--json")
        assert code == 0
        answer = json.loads(out)
        told.state("waiting", "the base model is gone")
        code, out, _ = run("-C", repo, "watch", "--status")
        assert code == 1
        assert "waiting: the base model is gone" in out
    assert (answer["alive"], answer["well"], answer["pid"]) == (True, True, os.getpid())
    assert (answer["state"], answer["batch"], answer["queue"]) == (
        "training",
        "monday.jsonl",
        ["tuesday.jsonl"],
    )
    assert datetime.fromisoformat(answer["last_step_time"]).utcoffset() is not None
    assert 0 <= answer["seconds_since_step"] < 60
    assert status.read(at) is not None


def test_pause_and_resume(repo: Path, run: Run) -> None:
    code, out, _ = run("-C", repo, "watch", "--pause")
    assert code == 0
    assert "one that is started will wait" in out
    assert control.wanted(Layout(repo))
    code, out, _ = run("-C", repo, "watch", "--resume")
    assert code == 0
    assert not control.wanted(Layout(repo))


def test_install_prints_first_and_print_only_prints(
    repo: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    code, out, _ = run("-C", repo, "watch", "inbox", "--print")
    assert code == 0
    assert f"WorkingDirectory={repo.resolve()}\n" in out
    assert f" watch {repo.resolve()}/inbox\n" in out
    assert not (tmp_path / "config").exists()
    assert run("-C", repo, "watch", "inbox", "--install", "--print")[1] == out
    assert not (tmp_path / "config").exists()
    code, told, _ = run("-C", repo, "watch", "inbox", "--install")
    assert code == 0
    assert told.startswith(out)
    assert "systemctl --user enable --now mvc-model" in told
    assert (tmp_path / "config/systemd/user/mvc-model.service").read_text() == out


def test_asking_loads_nothing_heavy(repo: Path) -> None:
    assert loaded("watch", "--resume", cwd=repo).isdisjoint([*HEAVY, "prometheus_client"])
