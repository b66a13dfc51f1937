"""What a stranger's repo may hold, looked at before anything of it is used.

Owns the rules for a commit's tree (nothing tracked where mvc and DVC keep their own files, no link
in the place of a control file) and for the tracked `.dvc/config`, which DVC would obey: some of its
options name folders that DVC writes to, files that it reads keys from, and commands that it runs.
Pointers and lists of files are `pointers`', states are the engine's. What the user allows (`user`)
is never read from the repo.
"""

from __future__ import annotations

import io
import re
import tempfile
from functools import lru_cache
from pathlib import Path

from mvc.errors import RepoError
from mvc.store import configured, git, user
from mvc.store.layout import (
    BATCH,
    BATCH_POINTER,
    CONFIG,
    CURVE,
    DVC_YAML,
    LOGS,
    METRICS,
    PRIVATE,
    STATE,
    STATE_POINTER,
    Layout,
)

_DVC_CONFIG = ".dvc/config"
_NEVER_TRACKED = (PRIVATE, STATE, BATCH)
_IN_DVC = (_DVC_CONFIG, ".dvc/.gitignore")
_CONTROL = (CONFIG, STATE_POINTER, BATCH_POINTER, METRICS, CURVE, DVC_YAML)
_GIT_FILES = (".gitignore", ".gitattributes", ".gitmodules", ".dvcignore", ".dvc", LOGS)
_MOST_BYTES = {CURVE: 64 << 20, STATE_POINTER: 16 << 20, BATCH_POINTER: 16 << 20}
_MOST = 1 << 20
_CHOOSE = "`mvc log` lists other commits; tell whoever made this one"

# Options that name no folder to write to, no file to read from and no command to run
# (dvc/config_schema.py). All others are refused: site_cache_dir holds pickles that DVC loads,
# bearer_token_command is run by a shell, an AWS file at configpath may name a credential_process.
_SAFE: dict[str, frozenset[str]] = {
    "core": frozenset(("remote", "autostage", "analytics", "check_update", "checksum_jobs")),
    "cache": frozenset(("type", "protected", "shared", "slow_link_warning", "verify")),
    "state": frozenset(("row_limit", "row_cleanup_quota")),
}
_SAFE_REMOTE = frozenset(
    (
        *("url", "type", "jobs", "checksum_jobs", "no_traverse", "verify", "version_aware"),
        *("worktree", "shared", "protected", "slow_link_warning", "endpointurl", "region"),
        *("profile", "acl", "sse", "sse_kms_key_id", "use_ssl", "ssl_verify", "listobjects"),
        *("read_timeout", "connect_timeout", "connection_timeout", "timeout", "cache_regions"),
        *("allow_anonymous_login", "projectname", "account_name", "tenant_id", "client_id"),
        *("user", "port", "max_sessions", "allow_agent", "gss_auth", "auth", "method"),
        *("oss_endpoint", "ask_password", "ask_passphrase", "custom_auth_header"),
    )
)
_REMOTE = re.compile(r"""['"]?remote ["']?(?P<name>[^"']*)["']?['"]?""")


def check_commit(layout: Layout, commit: str) -> None:
    """Refuse a commit whose tree would reach out of its place once it is checked out.

    Args:
        layout: The repo.
        commit: A full hash; call it before the work tree or a branch moves there.

    Raises:
        RepoError: naming the path and what is wrong with it.
    """
    root = layout.root
    told, dvc, modules = _tree(root, commit)
    for row in filter(None, told.split("\0")):
        about, _, path = row.partition("\t")
        mode, _, _, size = about.split()
        if problem := _problem(path, mode, int(size) if size.isdigit() else 0):
            raise RepoError(f"commit {commit[:10]} is refused: {path!r} {problem}", _CHOOSE)
    if dvc is not None and (why := _dvc_problem(dvc.decode(errors="replace"))):
        _refuse(layout, f"{_DVC_CONFIG} of commit {commit[:10]} {why}")
    if dvc == _here(root):
        dvc = None  # DVC can read it there as it can here, and is 0.2 s of imports
    for name, data, opens in ((_DVC_CONFIG, dvc, _open_dvc), (".gitmodules", modules, _open_git)):
        if data is not None and (why := opens(data)):
            raise RepoError(
                f"commit {commit[:10]} is refused: DVC cannot read {name}: {why}", _CHOOSE
            )


@lru_cache(maxsize=4)  # a pull asks twice, and what a hash names never changes
def _tree(root: Path, commit: str) -> tuple[str, bytes | None, bytes | None]:
    """A commit's tree, and what of it DVC and its git read."""
    told = git.read(root, "ls-tree", "-r", "-z", "--long", "--full-tree", commit)
    dvc, modules = git.cat(root, [f"{commit}:{_DVC_CONFIG}", f"{commit}:.gitmodules"])
    return told, dvc, modules


def check_here(layout: Layout) -> None:
    """Refuse to write while something of a commit lies where mvc keeps its own files.

    Raises:
        RepoError: `.mvc` is a link, or git tracks files in it.
    """
    private = layout.private
    if private.is_symlink() or any((private / n).is_symlink() for n in ("lock", "run", "out")):
        raise RepoError(
            f"{PRIVATE} is a link, or holds one: mvc would write where it points to",
            f"remove it (`rm -r {PRIVATE}`); `git log -- {PRIVATE}` tells who made it",
        )
    if git.try_read(layout.root, "ls-files", "-z", "--", PRIVATE):
        raise RepoError(
            f"git tracks files in {PRIVATE}/, where mvc keeps what it is doing",
            f"remove them: `git rm -r -f {PRIVATE}` and `git commit`; tell whoever made them",
        )


def check_dvc(layout: Layout) -> None:
    """Refuse to open DVC on a tracked configuration that names folders, key files or commands.

    The user's own `.dvc/config.local` may say anything.

    Raises:
        RepoError: naming the option.
    """
    file = layout.root / _DVC_CONFIG
    if (layout.root / ".dvc").is_symlink() or file.is_symlink():
        raise RepoError(
            ".dvc is a link: DVC would write where it points to",
            "bring the folder back with `git checkout HEAD -- .dvc`",
        )
    try:
        text = file.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return
    if why := _dvc_problem(text):
        _refuse(layout, f"{_DVC_CONFIG} {why}")


def remote_options(data: bytes, name: str) -> dict[str, str]:
    """What a tracked `.dvc/config` says of a remote; nothing where DVC could not read it."""
    try:
        found = configured.sections(data.decode(errors="replace"))
    except ValueError:
        return {}
    for section, options in found.items():
        remote = _REMOTE.fullmatch(section)
        if remote and remote["name"] == name and isinstance(options, dict):
            return {key.lower(): str(value) for key, value in options.items()}
    return {}


def _refuse(layout: Layout, message: str) -> None:
    if user.permissions(layout.root).dvc_config:
        return
    raise RepoError(
        f"{message}; a repo cannot decide that for this machine",
        "move the option to .dvc/config.local (`dvc config --local ...`) if it is your own; "
        + user.how_to_allow(layout.root, "dvc_config"),
    )


def _problem(path: str, mode: str, size_bytes: int) -> str | None:
    """What is wrong with one tracked path, or None."""
    # A file system that folds case would take .MVC for .mvc.
    folded = path.casefold()
    first = folded.split("/")[0]
    if first in _NEVER_TRACKED:
        return "lies where mvc keeps its own files, and must not be tracked"
    if first == ".dvc" and folded not in _IN_DVC and not folded.startswith(".dvc/plots/"):
        return "lies where DVC keeps its own files, and must not be tracked"
    ours = folded in _CONTROL or folded in _GIT_FILES or first in (".dvc", LOGS)
    if ours and mode not in ("100644", "100755"):
        return "must be a plain file, not a link or a submodule"
    if folded in (LOGS, ".dvc"):
        return "must be a folder"
    small = folded in _CONTROL or folded == _DVC_CONFIG
    if small and size_bytes > _MOST_BYTES.get(folded, _MOST):
        return f"is {size_bytes} bytes, more than it can rightly be"
    return None


def _here(root: Path) -> bytes | None:
    try:
        return (root / _DVC_CONFIG).read_bytes()
    except OSError:
        return None


def _open_dvc(data: bytes) -> str | None:
    """Why DVC could not open a repo with this configuration, or None."""
    from dvc.config import Config

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config").write_bytes(data)
        try:
            Config.validate(Config(dvc_dir=folder, validate=False).load_one("repo"))
        except Exception as error:  # whatever it is, it would come again when HEAD has moved
            return str(error)
    return None


def _open_git(data: bytes) -> str | None:
    """Why DVC's git could not read these submodules, or None."""
    from dulwich.config import ConfigFile, parse_submodules

    try:
        list(parse_submodules(ConfigFile.from_file(io.BytesIO(data))))
    except Exception as error:  # as above
        return str(error)
    return None


@lru_cache(maxsize=8)
def _dvc_problem(text: str) -> str | None:
    """The first option of a DVC configuration that is not harmless, in words, or None."""
    try:
        found = configured.sections(text)
    except ValueError as error:
        return f"cannot be read: {error}"
    for section, options in found.items():
        if not isinstance(options, dict):
            return f"sets `{section}`, outside any section"
        remote = _REMOTE.fullmatch(section)
        safe = _SAFE_REMOTE if remote else _SAFE.get(section, frozenset())
        name = f"remote {remote['name']}" if remote else section
        google = str(options.get("url", "")).lower().startswith(("gs:", "gcs:"))
        for option, value in options.items():
            if google and option.lower() == "endpointurl":  # a bearer token would go there
                return f"sets `{option}` in [{name}]"
            if option.lower() not in safe or isinstance(value, dict):
                return f"sets `{option}` in [{name}]"
            if option.lower() == "ssl_verify" and str(value).lower() not in ("true", "1", "yes"):
                return f"sets `{option}` in [{name}]"
            if any(isinstance(v, str) and "\0" in v for v in (value, option)):
                return f"sets `{option}` in [{name}] to what is no text"
    return None
