"""DVC's configuration files, read without DVC.

Owns which files there are, which one counts, and how a remote's URL is to be read. Opening DVC's
own `Config` takes 0.2 s: it imports all of its filesystems. Writes nothing, and validates nothing.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from mvc.errors import StoreError
from mvc.store.layout import Layout

Level = Literal["system", "global", "repo", "local"]
LEVELS: tuple[Level, ...] = ("system", "global", "repo", "local")
"""In the order in which they shadow each other."""
_REMOTE = re.compile(r'\s*remote\s*"(.*)"\s*')


def option(layout: Layout, section: str, name: str) -> tuple[str, Path] | None:
    """What DVC's configuration says, and the file that says it: the last one counts.

    Raises:
        StoreError: a file cannot be read.
    """
    for file, said in reversed([*_read(layout, LEVELS)]):
        found = said.get(section, {}).get(name)
        if found is not None:
            return (_text(found), file) if found else None
    return None


def remotes(layout: Layout, levels: Sequence[Level] = LEVELS) -> dict[str, dict[str, str]]:
    """The remotes' options, of these levels together; a folder's URL is absolute.

    Raises:
        StoreError: a file cannot be read, or a URL is a list (a comma, and no quotes).
    """
    found: dict[str, dict[str, str]] = {}
    for file, said in _read(layout, levels):
        for section, options in said.items():
            if remote := _REMOTE.fullmatch(section):
                if isinstance(options.get("url"), list):  # DVC fails too
                    raise _unreadable(file, ValueError(f"the URL of {remote[1]} needs quotes"))
                told = {key: _text(value) for key, value in options.items()}
                if "url" in told:
                    told["url"] = _resolved(told["url"], file.parent)
                found.setdefault(remote[1], {}).update(told)
    return found


def _read(layout: Layout, levels: Sequence[Level]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file that is there, and its sections.

    Source: dvc/config.py (Config.files, load_file) and dvc/dirs.py.
    """
    import platformdirs

    for level in levels:
        if level in ("repo", "local"):
            name = "config" if level == "repo" else "config.local"
            file = layout.root / ".dvc" / name
        else:
            folder = os.getenv(f"DVC_{level.upper()}_CONFIG_DIR")
            which = "site_config_dir" if level == "system" else "user_config_dir"
            file = Path(folder or getattr(platformdirs, which)("dvc", "iterative"), "config")
        try:
            stat = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _unreadable(file, error) from error
        if file.is_file():
            yield file, _parsed(file, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=32)  # a command asks some thirty times, a millisecond each
def _parsed(file: Path, *_seen: int) -> dict[str, Any]:
    try:
        found = sections(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise _unreadable(file, error) from error
    return {
        section.lower(): {key.lower(): value for key, value in options.items()}
        for section, options in found.items()
        if isinstance(options, dict)
    }


def sections(text: str) -> dict[str, Any]:
    """The sections of a configuration's text, its lines cut where DVC cuts them.

    For whoever reads one: what mvc takes of it must be what `foreign` saw. Given a file's name
    ConfigObj cuts at line feeds alone, and a U+2028 hides an option from one or the other.

    Raises:
        ValueError: it is no configuration.
    """
    from configobj import ConfigObj, ConfigObjError  # type: ignore[import-untyped]

    try:
        found: dict[str, Any] = ConfigObj(io.StringIO(text), interpolation=False).dict()
    except (ConfigObjError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return found


def _unreadable(file: Path, error: Exception) -> StoreError:
    return StoreError(f"{file} cannot be read: {error}", "correct that file, or its permissions")


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _resolved(url: str, folder: Path) -> str:
    """Source: dvc/config.py, Config._resolve. An absolute path stays as it is: `..` behind a link
    is not what it is in the text."""
    if re.match(r"\w+://", url):
        return url
    path = os.path.expanduser(url)  # noqa: PTH111 (unlike Path's it leaves an unknown user)
    if os.path.isabs(path):  # noqa: PTH117
        return path
    return os.path.abspath(os.path.join(folder, path))  # noqa: PTH100, PTH118 (a link stays a link)
