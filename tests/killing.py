"""Dying by SIGKILL at a chosen moment: the machinery of every kill test.

A moment is an audit event that changes something: a file opened for writing, a rename, a link, a
removal, a new folder, a process started. The function runs in a forked child that leads its own
process group; at the N-th event the whole group dies. When that event starts a process, the kill
waits a moment, so that it meets git in the middle of its work.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

_CHANGES = {
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


def _in_child(function: Callable[[], object], nth: int) -> tuple[int, int]:
    """Run in a forked child; returns its wait status and the events it counted (0 if killed)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        return status, int(said or 0)
    os.setpgid(0, 0)
    os.close(reader)
    seen = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if not _is_moment(event, args):
            return
        seen += 1
        if seen == nth:
            if event == "subprocess.Popen":
                threading.Thread(target=_die_soon, daemon=True).start()
            else:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
    code = 1
    try:
        function()
        os.write(writer, str(seen).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _die_soon() -> None:
    time.sleep(_INSIDE_CHILD_S)
    os.killpg(0, signal.SIGKILL)


def count_events(function: Callable[[], object]) -> int:
    """How many moments an undisturbed run of `function` in a child has; its effects stay."""
    status, seen = _in_child(function, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the undisturbed run failed"
    return seen


def run_and_kill(function: Callable[[], object], nth: int) -> bool:
    """Run `function` in a child that dies at its `nth` moment; True if it was killed."""
    code = os.waitstatus_to_exitcode(_in_child(function, nth)[0])
    assert code in (0, -signal.SIGKILL), f"the child ended with {code}"
    return code != 0


def spread(events: int, moments: int) -> Iterator[int]:
    """About `moments` numbers from 1 to `events`, evenly spread, the last one among them."""
    yield from sorted({max(1, round(i * events / moments)) for i in range(1, moments + 1)})
