"""The user's own configuration: what this machine trusts, and what it lets a repo do.

Owns `config.toml` in the user's configuration folder (on Linux `~/.config/mvc/`, or below
`$XDG_CONFIG_HOME`). Reads nothing from a repo: what a stranger sends cannot change it.

    [trust]
    require_signed = true            # pull and checkout refuse what is unsigned or a stranger's

    [repo."/home/ada/my-model"]      # what this one repo may do on this machine
    dvc_config = true                # obey every option of its tracked .dvc/config
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from mvc.errors import ConfigError


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file: unknown keys are errors, for a mistyped one would protect nothing."""


class Trust(_Table, frozen=True):
    """[trust]: whose commits pull and checkout take."""

    require_signed: bool = False


class Permissions(_Table, frozen=True):
    """[repo."PATH"]: what one repo may do on this machine; nothing by default."""

    dvc_config: bool = False


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
    here = root.resolve()
    for name, allowed in load().repo.items():
        if Path(name).expanduser().resolve() == here:
            return allowed
    return Permissions()


def how_to_allow(root: Path, what: str) -> str:
    """The hint of an error: the lines that allow `what` (a field of `Permissions`) to one repo."""
    table = f'[repo."{root.resolve()}"]'
    lines = f"add the lines `{table}` and `{what} = true` to {path()}"
    return f"if you trust its author, allow it: {lines}"
