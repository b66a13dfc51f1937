"""The user's own configuration: what this machine trusts, and what it lets a repo do.

Owns `config.toml` in the user's configuration folder (on Linux `~/.config/mvc/`, or below
`$XDG_CONFIG_HOME`). Reads nothing from a repo: what a stranger sends cannot change it. Edits keep
the user's comments.

    [trust]
    require_signed = true            # pull and checkout refuse what is unsigned or a stranger's

    [repo."/home/ada/my-model"]      # what this one repo may do on this machine
    dvc_config = true                # obey every option of its tracked .dvc/config
    remote_code = "5a1c..."          # run its base's code of this digest (`mvc trust`)
    launch = "10.0.0.1:29500"        # train with the machines that meet there (`mvc trust`)
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mvc.errors import ConfigError
from mvc.store.files import atomic_write


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file: unknown keys are errors, for a mistyped one would protect nothing."""


class Trust(_Table, frozen=True):
    """[trust]: whose commits pull and checkout take."""

    require_signed: bool = False


class Permissions(_Table, frozen=True):
    """[repo."PATH"]: what one repo may do on this machine; nothing by default."""

    dvc_config: bool = False
    remote_code: str = ""
    launch: str = ""


class UserSettings(_Table, frozen=True):
    """The whole file."""

    trust: Trust = Trust()
    repo: dict[str, Permissions] = {}


def path() -> Path:
    """Where the file lies; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_config_dir("mvc", appauthor=False)) / "config.toml"


def load() -> UserSettings:
    """The user's configuration; the defaults where there is none.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or holds an unknown key or a wrong type.
    """
    file = path()
    try:
        return msgspec.convert(tomllib.loads(file.read_text("utf-8")), UserSettings, strict=True)
    except FileNotFoundError:
        return UserSettings()
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"{file} cannot be used: {error}",
            "correct that file; nothing is trusted or allowed on a guess",
        ) from error


def permissions(root: Path) -> Permissions:
    """What the user allows the repo at `root` on this machine.

    Raises:
        ConfigError: see `load`.
    """
    tables = load().repo
    return next((tables[name] for name in _names(tables, root)), Permissions())


def allow(root: Path, what: str, value: str) -> None:
    """Let the repo at `root` do `what` (a field of `Permissions`) with `value`, and no other.

    Raises:
        ConfigError: the file cannot be used or written.
    """
    load()  # what cannot be read must not be written over
    document = _document()
    tables = document.setdefault("repo", _table(is_super_table=True))
    name = next(_names(tables, root), str(root.resolve()))
    tables.setdefault(name, _table())[what] = value
    _write(document)


def revoke(root: Path) -> bool:
    """Take back everything that the repo at `root` was allowed; whether there was anything.

    Raises:
        ConfigError: the file cannot be used or written.
    """
    load()
    document = _document()
    tables = document.get("repo", {})
    names = list(_names(tables, root))
    for name in names:
        del tables[name]
    if names:
        _write(document)
    return bool(names)


def _names(tables: Any, root: Path) -> Iterator[str]:
    """The keys under [repo] that are this repo's path."""
    here = root.resolve()
    return (str(name) for name in tables if Path(name).expanduser().resolve() == here)


def _document() -> Any:
    import tomlkit

    try:
        return tomlkit.parse(path().read_text("utf-8"))
    except FileNotFoundError:
        return tomlkit.document()


def _table(**how: bool) -> Any:
    import tomlkit

    return tomlkit.table(**how)


def _write(document: Any) -> None:
    import tomlkit

    file = path().resolve()  # a link to where its user keeps such files stays one
    try:
        atomic_write(file, tomlkit.dumps(document).encode())
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror}", "make it a file that you may write to"
        ) from error


def how_to_allow(root: Path, what: str) -> str:
    """The hint of an error: the lines that allow `what` (a field of `Permissions`) to one repo."""
    table = f'[repo."{root.resolve()}"]'
    lines = f"add the lines `{table}` and `{what} = true` to {path()}"
    return f"if you trust its author, allow it: {lines}"
