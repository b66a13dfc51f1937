"""Imports that somebody else's work hides."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from threading import Thread


def soon(module: str) -> None:
    """Import a module in a thread, while git, the network or the disk is waited for.

    What fails is met again by who needs it.
    """

    def bring() -> None:
        with suppress(Exception):
            import_module(module)

    Thread(target=bring, name="mvc-import", daemon=True).start()
