"""Which paths a stored folder may hold: all that stays below it and that no tool would obey.

Owns the rules for the names in a list of files, which may come from a stranger. Looks at names
only, never at a disk.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

_LONGEST_PATH, _LONGEST_NAME = 1024, 255


def stays(path: str) -> bool:
    """Whether a relative path stays below its folder and can be a file's name on any system.

    Nor may it be where git, DVC or mvc would look for settings: those can name a command, which
    runs for whoever calls git in there.
    """
    try:
        names = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    if any(map(_is_control, path.split("/"))):
        return False
    return (
        all(name not in (b"", b".", b"..") and len(name) <= _LONGEST_NAME for name in names)
        and len(path) <= _LONGEST_PATH
        and "\0" not in path
        and "\\" not in path
        and not PurePosixPath(path).is_absolute()
    )


def check_together(paths: Sequence[str]) -> None:
    """Refuse paths of one folder that cannot be there together.

    Raises:
        ValueError: one is there twice, or is a file and a folder at once, or together they make a
            repository.
    """
    _apart(paths)
    _no_repository(paths)


def _is_control(name: str) -> bool:
    """Whether some file system takes `name` for `.git`, `.dvc` or `.mvc`.

    Many fold case; NTFS leaves out dots and spaces at the end and what follows a colon, and has a
    short name; HFS+ leaves out characters without a shape.
    """
    if not name.isascii():
        name = "".join(each for each in name if unicodedata.category(each) != "Cf")
    return name.split(":")[0].rstrip(". ").casefold() in (".git", ".dvc", ".mvc", "git~1")


def _apart(paths: Sequence[str]) -> None:
    """Raise ValueError where one path is there twice, or is a file and a folder at once."""
    files = set(paths)
    if len(files) < len(paths):
        raise ValueError("it names a file twice")
    for path in paths:
        if clash := files.intersection(str(parent) for parent in PurePosixPath(path).parents):
            raise ValueError(f"{clash.pop()!r} is a file and a folder at once")


def _no_repository(paths: Sequence[str]) -> None:
    """Raise ValueError where git would take a folder for a bare repository, and obey its config.

    Source: git's setup.c, is_git_directory.
    """
    inside: dict[str, set[str]] = {}
    for path in paths:
        names = path.casefold().split("/")
        for depth, name in enumerate(names):
            if name in ("head", "objects", "refs", "commondir"):
                inside.setdefault("/".join(names[:depth]), set()).add(name)
    for folder, found in inside.items():
        if "head" in found and ("commondir" in found or {"objects", "refs"} <= found):
            raise ValueError(f"{folder or 'it'} looks like a git repository")
