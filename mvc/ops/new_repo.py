"""The beginning of a model repo: a folder that is free, a base that is pinned, git and DVC set up.

What `mvc init` and `mvc import` share. A failure on the way leaves nothing, and what a killed
process leaves has no commit: it can be told from a repo.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from mvc.errors import ConfigError, RepoError
from mvc.ops import record
from mvc.settings import BaseSettings
from mvc.store import git, layout, objects, user
from mvc.store.layout import Layout

_IGNORED = (layout.STATE, layout.BATCH, layout.LOGS, layout.PRIVATE)


class Pinned(msgspec.Struct, frozen=True):
    """A base as mvc.toml names it, and the digest of its code that may run (empty for none)."""

    settings: BaseSettings
    allowed: str


def refuse_occupied(directory: Path, verb: str) -> None:
    """Refuse a folder that holds something; `verb` is the command, for the way out.

    Raises:
        RepoError: it does, or is a file.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise _occupied(directory, verb)
    if directory.exists() and not directory.is_dir():
        raise RepoError(f"{directory} is a file", f"name a new folder: `{verb}`")


def pin_base(base: str, revision: str, *, trust_remote_code: bool, verb: str) -> Pinned:
    """Find the base and write down which one it is.

    Raises:
        BaseModelError: it cannot be found or read, or comes with code that is not allowed.
    """
    from mvc.engine import base as bases
    from mvc.engine import code

    found = bases.resolve(base, revision, Path.cwd())
    allowed = found.code.digest if trust_remote_code else ""
    code.permit(base, found.code, allowed, f"`{verb} --trust-remote-code`")
    local = Path(base).expanduser()
    ref = str(local.resolve()) if local.exists() and base not in bases.ALIASES else base
    return Pinned(BaseSettings(model=ref, revision=found.revision, digest=found.digest), allowed)


@contextmanager
def new_folder(directory: Path, allowed: str) -> Iterator[Layout]:
    """Make the folder and its git and DVC repository; an error on the way leaves it as it was.

    Raises:
        RepoError: it cannot be made.
    """
    existed = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepoError(
            f"{directory} cannot be made: {error.strerror}", "name a folder that you may write to"
        ) from error
    try:
        at = Layout(directory.resolve())
        if allowed:
            user.allow(at.root, "remote_code", allowed)
        at.private.mkdir()  # first, so that what a kill leaves can be told from a user's folder
        git.write(at.root, "init", "--quiet", "--initial-branch=main")
        objects.init(at)
        yield at
    except BaseException:
        # Nothing of a failure stays: the folder was new or empty.
        if allowed:
            with suppress(ConfigError):  # then it could not be written, and the first error counts
                user.revoke(directory)
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed:
            directory.rmdir()
        raise


def first_files(at: Layout, text: str) -> dict[str, bytes | None]:
    """What the first commit of a repo tracks, whatever its state; `text` is mvc.toml's."""
    return {
        **{name: (at.root / name).read_bytes() for name in objects.INIT_FILES},
        layout.CONFIG: text.encode(),
        ".gitignore": "".join(f"/{name}\n" for name in _IGNORED).encode(),
        layout.DVC_YAML: record.DVC_YAML,
    }


def _occupied(directory: Path, verb: str) -> RepoError:
    """What a folder that is not empty is, and the way out."""
    name = shlex.quote(str(directory))
    if not (directory / layout.PRIVATE).is_dir():
        what, way = "is not empty", f"name a new folder: `{verb}`"
        if (directory / layout.CONFIG).exists():
            what = "is a model repo already"
    elif not git.try_read(
        directory, f"--git-dir={directory / '.git'}", "rev-parse", "-q", "--verify", "HEAD^{commit}"
    ):
        told = " ".join(verb.split()[:2])
        what = f"is what an interrupted `{told}` left"
        way = f"`rm -r {name}`, then run the same `{told}` again"
    elif (directory / layout.CONFIG).exists():
        what, way = "is a model repo already", f"name a new folder: `{verb}`"
    else:
        what = f"is a model repo without {layout.CONFIG}"
        way = f"`git -C {name} checkout HEAD -- {layout.CONFIG}` brings it back"
    return RepoError(f"{directory} {what}", way)
