"""Running a function in a process of its own, without paying 6 s of imports each time.

The child is forked, so torch must be imported here and must not have started threads: conftest
sets OMP_NUM_THREADS=1, with which it starts none.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_process(function: Callable[[], T]) -> T:
    """What `function` returns in a forked child; its exception is raised here."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            answer: tuple[bool, object] = (True, function())
        except BaseException as error:
            traceback.print_exc()
            answer = (False, error)
        try:
            said = pickle.dumps(answer)
        except Exception:
            said = pickle.dumps((False, RuntimeError(repr(answer[1]))))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(said)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    worked, value = pickle.loads(said)  # our own child's words, not a file's
    if not worked:
        raise value
    return value
