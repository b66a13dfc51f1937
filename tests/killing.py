"""Dying by SIGKILL at a chosen moment: the machinery of every kill test.

A moment is an audit event that changes something: a file opened for writing, a rename, a link, a
removal, a new folder, a process started, or a mark of the test's own (`STEP`). The function runs
in a forked child that leads its own process group; at the N-th event the whole group dies. When
that event starts a process, the kill waits a moment, so that it meets git in the middle of its
work.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

STEP = "mvc.tests.step"
"""Raised with `sys.audit` by a test where nothing is written: in the middle of training."""

_CHANGES = {
    STEP,
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "subprocess.Popen",
}
_INSIDE_CHILD_S = 0.003


def _is_moment(event: str, args: tuple[object, ...]) -> bool:
    if event == "open":
        flags = args[2] if len(args) > 2 else 0
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in _CHANGES


def _told(event: str, args: tuple[object, ...]) -> str:
    """A moment in one line: the event, and the paths or the command it is about."""
    if event == "subprocess.Popen" and isinstance(args[1], list | tuple):
        args = tuple(args[1])
    elif event == "open":
        args = args[:1]
    return " ".join([event, *map(str, args)]).replace("\n", " ")


def _in_child(
    function: Callable[[], object], nth: int, after_s: float | None = None
) -> tuple[int, list[str]]:
    """Run in a forked child, killed at a moment or after some time.

    Returns:
        Its wait status, and its moments in order, the one that it died at being the last.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        timer = None
        if after_s is not None:
            with contextlib.suppress(OSError):  # the child was faster
                os.setpgid(child, child)
            timer = threading.Timer(after_s, os.killpg, (child, signal.SIGKILL))
            timer.start()
        with os.fdopen(reader, errors="replace") as pipe:
            told = pipe.read().splitlines()
        if timer is not None:
            timer.cancel()
            timer.join()
        _, status = os.waitpid(child, 0)
        return status, told
    os.setpgid(0, 0)
    os.close(reader)
    sys.dont_write_bytecode = True  # moments of a first import would not come again
    seen = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if not _is_moment(event, args):
            return
        seen += 1
        os.write(writer, f"{_told(event, args)}\n".encode(errors="replace"))
        if seen == nth:
            if event == "subprocess.Popen":
                threading.Thread(target=_die_soon, daemon=True).start()
            else:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _die_soon() -> None:
    time.sleep(_INSIDE_CHILD_S)
    os.killpg(0, signal.SIGKILL)


def moments(function: Callable[[], object]) -> list[str]:
    """The moments of an undisturbed run of `function` in a child; its effects stay."""
    status, told = _in_child(function, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the undisturbed run failed"
    return told


def count_events(function: Callable[[], object]) -> int:
    """How many moments an undisturbed run of `function` in a child has; its effects stay."""
    return len(moments(function))


def killed_at(function: Callable[[], object], nth: int) -> list[str]:
    """Run `function` in a child that dies at its `nth` moment; the moments it had, that one last.

    Empty if it was not killed.
    """
    status, told = _in_child(function, nth)
    return told if _was_killed(status) else []


def run_and_kill(function: Callable[[], object], nth: int) -> bool:
    """Run `function` in a child that dies at its `nth` moment; True if it was killed."""
    return _was_killed(_in_child(function, nth)[0])


def killed_after(function: Callable[[], object], seconds: float) -> list[str]:
    """Run `function` in a child that dies after `seconds`, whatever it does; its moments.

    It may have ended before.
    """
    status, told = _in_child(function, 0, seconds)
    _was_killed(status)
    return told


def _was_killed(status: int) -> bool:
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the child ended with {code}"
    return code != 0


def spread(events: int, moments: int) -> Iterator[int]:
    """About `moments` numbers from 1 to `events`, evenly spread, the last one among them."""
    yield from sorted({max(1, round(i * events / moments)) for i in range(1, moments + 1)})
