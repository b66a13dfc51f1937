"""Remotes: a git remote and a DVC remote under one name.

Owns adding, removing and finding them, where each option is kept (what every clone needs in the
tracked `.dvc/config`, all else in `.dvc/config.local`), and masking secrets in URLs. Transfers
nothing; writes configuration only, no commit. What a stranger's configuration may say is
`foreign`'s to tell, and what this machine keeps to whatever a commit says is in `places`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from mvc.errors import MissingExtra, MvcError, RemoteError
from mvc.sharing import Remote
from mvc.store import configured, git
from mvc.store.layout import Layout

EXTRAS = ("s3", "ssh", "gs", "azure", "webdav")
"""The extras of this package, each a protocol of DVC's; folders and http(s) need none."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")
# What another clone needs as well. Anything else may be a secret, or holds for one machine only.
_PUBLIC = {
    "url",
    "endpointurl",
    "region",
    "port",
    "account_name",
    "projectname",
    "auth",
    "method",
    "oss_endpoint",
    "allow_anonymous_login",
    "shared",
}
_USER_IS_PUBLIC = {"ssh", "sftp", "git", "git+ssh", "webdav", "webdavs"}


def add(
    layout: Layout, name: str, git_url: str, data_url: str, options: Mapping[str, str] | None = None
) -> None:
    """Set the git remote and the DVC remote `name`; the caller commits `.dvc/config`.

    Done again with the same URLs it adds `options`: so a clone gets its own secrets.

    Args:
        layout: The repo.
        name: Lower-case letters, digits, `-`, `_` and `.` (DVC knows no other case).
        git_url: What `git clone` takes. A folder becomes absolute.
        data_url: What `dvc remote add` takes. A folder becomes absolute; a password goes to
            `.dvc/config.local`.
        options: DVC's options of that protocol (`endpointurl`).

    Raises:
        RemoteError: the name is odd or taken, DVC knows no such protocol or option.
        MissingExtra: the protocol's package is not installed.
        In both cases nothing was changed.
    """
    require_name(name)
    git_url, data_url = absolute(git_url, scp=True), absolute(data_url)
    public, private = sorted_options(data_url, {k.lower(): v for k, v in (options or {}).items()})
    known = {remote.name: remote for remote in listing(layout)}
    old = known.get(name, Remote(name, None, None, False))
    for was, now in ((old.git_url, git_url), (old.data_url, public["url"])):
        if was not in (None, now):
            raise RemoteError(
                f"remote {name} exists already, at {masked(was or '')}",
                f"take another name, or `mvc remote remove {name}` first",
            )
    require_protocol(public["url"])
    first = not any(remote.data_url for remote in known.values())
    with said_without(private):
        config = dvc_config(layout)
        # What this machine has pinned (`places`) wins over what is tracked.
        pinned = "url" in config.load_one("local")["remote"].get(name, {})
        mine = private | (public if pinned else {})
        files = [Path(config.files[level]) for level in ("repo", "local")]
        kept = [(file, file.read_bytes() if file.is_file() else None) for file in files]
        try:
            if mine:  # first: a kill in between leaves no remote that asks for a password
                with editing_local(layout, config) as local:
                    local["remote"].setdefault(name, {}).update(mine)
            with config.edit("repo") as repo:
                repo["remote"].setdefault(name, {}).update(public)
                if first:
                    repo["core"]["remote"] = name
            config.read()
            config.validate(config.load_config_to_level())
        except Exception:
            for file, text in kept:
                if text is not None:
                    file.write_bytes(text)
                elif file.exists():
                    file.unlink()
            raise
    if old.git_url is None:
        git.write(layout.root, "remote", "add", "--", name, git_url)


def require_name(name: str) -> None:
    """Refuse what cannot name a remote of git and of DVC; a stranger's `.dvc/config` may say it.

    Raises:
        RemoteError: it is odd.
    """
    if not _NAME.fullmatch(name) or name.endswith(".lock"):
        raise RemoteError(
            f"{name!r} cannot be a remote's name",
            "use lower-case letters, digits and `-`: `mvc remote add origin ...`",
        )


def remove(
    layout: Layout, name: str, *, levels: Sequence[Literal["repo", "local"]] = ("repo", "local")
) -> None:
    """Remove the git remote and the DVC remote `name`; the caller commits `.dvc/config`.

    With `levels=("local",)` the tracked `.dvc/config` is left as it is.

    Raises:
        RemoteError: there is none.
    """
    remote = get(layout, name)
    left = [each for each in listing(layout) if each.data_url and each.name != name]
    with said_without({}):
        config = dvc_config(layout)
        for level in levels:
            local = level == "local"
            edited = editing_local(layout, config) if local else config.edit(level, validate=False)
            with edited as conf:
                conf["remote"].pop(name, None)
                if conf["core"].get("remote") == name:
                    conf["core"].pop("remote")
                    if len(left) == 1:
                        conf["core"]["remote"] = left[0].name
    if remote.git_url is not None:
        git.write(layout.root, "remote", "remove", name)


def listing(layout: Layout) -> list[Remote]:
    """All remotes, by name; those that only git or only DVC has are among them."""
    gits: dict[str, str] = {}
    told = git.try_read(layout.root, "config", "-z", "--get-regexp", r"^remote\..*\.url$") or ""
    for item in told.split("\0"):
        key, _, url = item.partition("\n")
        if url:
            gits.setdefault(key.removeprefix("remote.").removesuffix(".url"), url)
    data = {name: options.get("url") for name, options in configured.remotes(layout).items()}
    default, _ = configured.option(layout, "core", "remote") or ("", None)
    return [
        Remote(name, gits.get(name), data.get(name), name == default)
        for name in sorted({*gits, *data})
    ]


def get(layout: Layout, name: str | None = None) -> Remote:
    """The remote `name`; with None the upstream's of HEAD's branch, else DVC's default, else the
    only one.

    Raises:
        RemoteError: there is none, or None says too little.
    """
    found = {remote.name: remote for remote in listing(layout)}
    if name is None:
        branch = git.try_read(layout.root, "symbolic-ref", "-q", "--short", "HEAD")
        upstream = git.try_read(layout.root, "config", "--get", f"branch.{branch}.remote")
        defaults = [remote.name for remote in found.values() if remote.default]
        names = [each for each in (upstream, *defaults) if each in found] or list(found)
        if not names:
            raise RemoteError(
                "this repo has no remote",
                "add one with `mvc remote add origin --git URL --data URL`",
            )
        if len(names) > 1 and not (upstream in found or defaults):
            raise RemoteError(
                f"there are several remotes ({', '.join(names)}) and none is the default",
                f"name one of them, such as `{names[0]}`",
            )
        name = names[0]
    if name not in found:
        others = f"there are {', '.join(found)}" if found else "there is none"
        raise RemoteError(
            f"there is no remote {name!r} ({others})", "`mvc remote` lists them with their URLs"
        )
    return found[name]


def data_url(layout: Layout, name: str) -> str | None:
    """Where the remote `name` keeps objects, as configured; None where DVC knows no such remote."""
    return configured.remotes(layout).get(name, {}).get("url")


def masked(url: str) -> str:
    """`url` as it may be shown: passwords, tokens and query values are `***`."""
    if "://" not in url:
        return url
    scheme, rest = url.split("://", 1)
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        user, _, host = authority.rpartition("@")
        login, colon, _ = user.partition(":")
        # Where the scheme is http, a lone user name is as a rule a token.
        shown = login if colon or scheme.lower() in _USER_IS_PUBLIC else "***"
        authority = f"{shown}{':***' if colon else ''}@{host}"
    path = re.sub(r"([?#]).*", r"\1***", path, flags=re.DOTALL)
    return f"{scheme}://{authority}{slash}{path}"


def scrubbed(text: str, secrets: Mapping[str, object] | None = None) -> str:
    """A foreign error's text without the URL passwords and the option values in `secrets`."""
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", lambda m: masked(m[0]), text)
    for value in sorted(map(str, (secrets or {}).values()), key=len, reverse=True):
        if len(value) > 3:  # `no` and `22` are no secrets, and are in every text
            text = text.replace(value, "***")
    return text


def secrets(layout: Layout, name: str) -> dict[str, str]:
    """The options of a DVC remote that must not be shown, from whatever file they come."""
    options = configured.remotes(layout).get(name, {})
    return {key: value for key, value in options.items() if key not in _PUBLIC}


def missing_extra(protocol: str) -> MissingExtra:
    """The error for a protocol whose package is not installed."""
    protocol = {"webdavs": "webdav", "https": "http"}.get(protocol, protocol)
    package = f"mvc-model[{protocol}]" if protocol in EXTRAS else f"dvc-{protocol}"
    return MissingExtra(
        f"remotes of {protocol}:// need a package that is not installed",
        f"install it with `pip install '{package}'`",
    )


# --- the parts ----------------------------------------------------------------------------------


def dvc_config(layout: Layout) -> Any:
    """DVC's configuration, merged of all its files and not validated."""
    from dvc.config import Config

    return Config(str(layout.root / ".dvc"), validate=False)


@contextmanager
def editing_local(layout: Layout, config: Any) -> Iterator[Any]:
    """`.dvc/config.local` to be changed; at no moment can another user read it."""
    path = layout.root / ".dvc" / "config.local"
    path.touch(mode=0o600)
    path.chmod(0o600)
    with config.edit("local", validate=False) as local:
        yield local


@contextmanager
def said_without(secret: Mapping[str, str]) -> Iterator[None]:
    """Turn what DVC says about its configuration into a RemoteError without secrets.

    The cause is not kept: its text could hold what must not be shown.

    Raises:
        RemoteError: DVC, or the disk, refused.
    """
    try:
        yield
    except MvcError:
        raise
    except Exception as error:
        from dvc.exceptions import DvcException  # 0.1 s, for who did not ask DVC

        if not isinstance(error, DvcException | OSError):
            raise
        raise RemoteError(
            f"DVC refused the remote: {scrubbed(str(error), secret)}",
            "`dvc remote modify --help` and https://dvc.org/doc tell each protocol's options",
        ) from None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise RemoteError(f"{masked(url)} is not a URL: {error}", "correct it") from None
    return parts


def absolute(url: str, *, scp: bool = False) -> str:
    """`url`, or the absolute path of a folder; with `scp`, `host:path` is git's, not a folder.

    Raises:
        RemoteError: it is no URL.
    """
    if not url or url.startswith("-") or not url.isprintable():
        raise RemoteError(f"{url!r} is not a URL", "give a folder, or ssh://, s3://, https://, ...")
    if "://" in url or (scp and ":" in url.split("/", 1)[0]):
        return url
    return os.path.abspath(Path(url).expanduser())  # noqa: PTH100 (a link stays a link)


def sorted_options(url: str, options: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """A data URL and DVC's options as what is tracked and what stays on this machine.

    Raises:
        RemoteError: the URL holds what no data URL can.
    """
    private: dict[str, str] = {}
    if "://" in url:
        parts = _split(url)
        if parts.query or parts.fragment:
            raise RemoteError(
                f"{masked(url)}: a data URL takes no ? and no #",
                "give tokens as options, such as `--option sas_token=...`",
            )
        if parts.username or parts.password:
            if parts.scheme not in {"ssh", "http", "https", "webdav", "webdavs"}:
                raise RemoteError(
                    f"{masked(url)}: {parts.scheme} URLs take no user and password",
                    "give them as options, such as `--option access_key_id=...`",
                )
            from urllib.parse import unquote

            user, password = unquote(parts.username or ""), unquote(parts.password or "")
            host = parts.netloc.rpartition("@")[2]
            # ssh: the user is part of the address. Elsewhere it says who asks.
            keep = f"{parts.username}@" if parts.scheme == "ssh" and user else ""
            private |= {"user": user} if user and not keep else {}
            private |= {"password": password} if password else {}
            url = parts._replace(netloc=keep + host).geturl()
    options.pop("url", None)
    public = {"url": url}
    for key, value in options.items():
        secret = key not in _PUBLIC or (key == "endpointurl" and masked(value) != value)
        (private if secret else public)[key] = value
    return public, private


def require_protocol(url: str) -> None:
    """Refuse a protocol that DVC cannot speak here.

    Raises:
        RemoteError: it knows none of that name.
        MissingExtra: the protocol's package is not installed.
    """
    from dvc_objects.fs import get_fs_cls, registry

    scheme = url.split("://", 1)[0].lower() if "://" in url else ""
    if scheme and (scheme not in registry or scheme in ("memory", "local")):
        raise RemoteError(
            f"{masked(url)}: DVC knows no protocol {scheme}",
            "it knows a folder, ssh://, s3://, gs://, azure://, webdavs:// and https://",
        )
    try:
        missing = get_fs_cls({"url": url}).get_missing_deps()
    except ImportError:
        missing = [scheme]
    if missing:
        raise missing_extra(scheme)
