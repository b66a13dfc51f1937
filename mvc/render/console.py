"""Where text goes: the two consoles. Honours terminals, pipes, widths and NO_COLOR.

Nothing is parsed as markup or highlighted: what is shown comes from other people's files.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from rich.text import Text

if TYPE_CHECKING:  # where there is no terminal, it is not needed, and takes 6 ms to import
    from rich.console import Console, RenderableType


def console(file: TextIO) -> Console:
    """A console on `file`: colour and width of the terminal, plain text elsewhere.

    NO_COLOR (any value but empty) removes every escape sequence, not only the colours.
    """
    from rich.console import Console

    return Console(
        file=file,
        markup=False,
        highlight=False,
        emoji=False,
        no_color=bool(os.environ.get("NO_COLOR")) or None,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )


def width() -> int | None:
    """Columns of the terminal behind stdout; None where there is none, for lines of any length."""
    return console(sys.stdout).width if sys.stdout.isatty() else None


def show(*parts: RenderableType) -> None:
    """Print to stdout; lines are never wrapped where a pipe or a file receives them."""
    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    out = console(sys.stdout) if forced or sys.stdout.isatty() else None
    if (out is None or not out.is_terminal) and all(isinstance(part, Text) for part in parts):
        # what rich would write, without a millisecond for each line
        sys.stdout.write("".join(f"{part}\n" for part in parts))
        return
    out = out or console(sys.stdout)
    for part in parts:
        out.print(part, soft_wrap=not out.is_terminal)
