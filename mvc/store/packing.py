"""Loose git objects into packs, from time to time.

mvc's own commands never let git do it by itself (`gc.auto=0`): it would happen in the middle of a
commit. A commit leaves some ten loose objects, so a daemon's line would gather them for ever.
"""

from __future__ import annotations

from mvc.store import git
from mvc.store.layout import Layout
from mvc.store.lock import Lock

_HOW = {
    "gc.auto": "6700",  # git's own default: loose objects below that number are left as they are
    "gc.autoDetach": "false",  # it ends before the lock is let go
    "gc.pruneExpire": "2.weeks.ago",  # whatever the user set: `mvc undo` and others may need them
}


def pack(layout: Layout) -> None:
    """Let git pack what is loose, where it finds that there is enough of it.

    Raises:
        LockHeld: another process writes to this repo; nothing was done.
        GitFailed: git could not.
        DiskFull: the lock's file cannot be made for want of space.
        StoreError: the repo cannot be written to.
    """
    with Lock(layout, "git gc"):
        how = (word for key, value in _HOW.items() for word in ("-c", f"{key}={value}"))
        git.write(layout.root, *how, "gc", "--auto", "--quiet")
