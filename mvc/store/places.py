"""Where this machine looks for a remote's objects, whatever the commit in hand says.

Owns what `.dvc/config.local` keeps of a remote from its first use on. From then on the tracked
`.dvc/config`, which a pull brings, has no say in where requests go, as whom and how safely: it
could lead this machine's keys to another server.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from mvc.errors import RemoteError
from mvc.store import configured, foreign, git, remotes, user
from mvc.store.layout import Layout

# What a commit may go on saying: how much at once, how long to wait. All else is routing.
_HARMLESS = frozenset(
    (
        *("jobs", "checksum_jobs", "max_sessions", "no_traverse", "listobjects", "cache_regions"),
        *("timeout", "read_timeout", "connect_timeout", "connection_timeout", "verify"),
        *("type", "shared", "protected", "slow_link_warning"),
    )
)


def pin(layout: Layout, name: str) -> None:
    """Keep what the tracked `.dvc/config` says of the remote in `.dvc/config.local` as well, once.

    So this machine knows it at every commit, also at those from before it was added, and a pulled
    commit cannot lead this machine's secrets to another server. What is there already stays.
    """
    if "url" in configured.remotes(layout, ("local",)).get(name, {}):
        return
    with remotes.said_without({}):
        config = remotes.dvc_config(layout)
        mine = config.load_one("local")["remote"].get(name, {})
        tracked = config.load_one("repo")["remote"].get(name, {})
        if new := {key: tracked[key] for key in tracked.keys() - _HARMLESS - mine.keys()}:
            with remotes.editing_local(layout, config) as local:
                local["remote"].setdefault(name, {}).update(new)


def place(
    layout: Layout, name: str, data_url: str, options: Mapping[str, str] | None = None
) -> None:
    """Let the remote's objects be at `data_url` for this machine, whatever the repo records.

    What this machine has of keys and options stays, unless the protocol is another.

    Raises:
        RemoteError: DVC knows no such protocol or option.
        MissingExtra: the protocol's package is not installed.
    """
    lowered = {key.lower(): value for key, value in (options or {}).items()}
    public, private = remotes.sorted_options(remotes.absolute(data_url), lowered)
    remotes.require_protocol(public["url"])
    with remotes.said_without(private):
        config = remotes.dvc_config(layout)
        with remotes.editing_local(layout, config) as local:
            mine = local["remote"].get(name, {})
            if _scheme(str(mine.get("url", public["url"]))) != _scheme(public["url"]):
                mine = {}
            local["remote"][name] = mine | public | private
            config.validate({"remote": {name: local["remote"][name]}})


def configuration(layout: Layout, name: str) -> Any:
    """DVC's configuration for a transfer with the remote, as this machine has pinned it.

    Raises:
        RemoteError: the remote's URL is another remote's, which no commit's pinning covers.
        ConfigError: DVC's own, for a value that it does not take.
    """
    config = remotes.dvc_config(layout)
    merged = config.load_config_to_level()
    if name in merged["remote"]:
        levels = {level: config.load_one(level)["remote"].get(name, {}) for level in config.LEVELS}
        merged["remote"][name] = _pinned(layout, merged["remote"][name], levels)
    if _scheme(str(merged["remote"].get(name, {}).get("url", ""))) == "remote":
        raise RemoteError(
            f"the data URL of remote {name} names another remote of DVC's",
            f"say where it is: `mvc remote place {name} --data URL`",
        )
    return config.validate(merged)


def options(layout: Layout, name: str) -> dict[str, str]:
    """`configuration` of this one remote, as it is written: not validated, and without DVC."""
    levels = {each: configured.remotes(layout, (each,)).get(name, {}) for each in configured.LEVELS}
    return _pinned(layout, configured.remotes(layout).get(name, {}), levels)


def _pinned(
    layout: Layout, said: dict[str, str], levels: Mapping[Any, dict[str, str]]
) -> dict[str, str]:
    """What this machine has pinned of what all levels together say, if it has."""
    mine = levels["local"]
    if "url" not in mine or user.permissions(layout.root).dvc_config:
        return said
    harmless = {key: said[key] for key in said.keys() & _HARMLESS}
    return harmless | levels["system"] | levels["global"] | mine


class Moved(msgspec.Struct, frozen=True):
    """Another place than this machine's, that a commit records; all of it may be shown.

    `command` is what makes this machine use `there`.
    """

    here: str
    there: str
    command: str


def moved(layout: Layout, name: str, commit: str) -> Moved | None:
    """Where `commit` says that the remote's objects are, if this machine looks elsewhere."""
    (text,) = git.cat(layout.root, [f"{commit}:.dvc/config"])
    said = foreign.remote_options(text or b"", name)
    mine = configured.remotes(layout, ("local",)).get(name, {})
    if "url" not in said or "url" not in mine:
        return None
    if "://" not in said["url"]:  # as DVC resolves it
        said["url"] = os.path.abspath(layout.root / ".dvc" / said["url"])  # noqa: PTH100
    new = {key: said[key] for key in said.keys() - _HARMLESS if str(mine.get(key)) != said[key]}
    if not new:
        return None
    url = remotes.masked(said["url"])
    options = sorted(f"{key}={remotes.masked(value)}" for key, value in new.items() if key != "url")
    old = sorted(f"{k}={remotes.masked(str(mine[k]))}" for k in new.keys() & mine.keys() - {"url"})
    words = ["mvc", "remote", "place", name, "--data", url]
    words += [word for each in options for word in ("--option", each)]
    here = [remotes.masked(str(mine["url"])), *old]
    return Moved(", ".join(here), ", ".join([url, *options]), shlex.join(words))


def _scheme(url: str) -> str:
    return url.split("://", 1)[0].lower() if "://" in url else ""
