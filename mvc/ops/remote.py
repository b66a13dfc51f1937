"""`mvc remote`: where a model repo is shared. The public half of a remote is committed at once, so
that every clone, and plain `dvc pull` in it, knows where the objects are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mvc.errors import RepoError
from mvc.ops import run
from mvc.ops.revision import made_by_mvc
from mvc.sharing import Remote
from mvc.store import config, history, messages, places, remotes, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, Commit, Progress

DVC_CONFIG = ".dvc/config"


def remote(at: Layout) -> list[Remote]:
    """All remotes, by name, their URLs fit to be shown."""
    return [
        Remote(
            name=each.name,
            git_url=remotes.masked(each.git_url) if each.git_url else None,
            data_url=remotes.masked(each.data_url) if each.data_url else None,
            default=each.default,
        )
        for each in remotes.listing(at)
    ]


def add(
    at: Layout,
    name: str,
    git_url: str,
    data_url: str,
    options: Mapping[str, str] | None = None,
    *,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> Remote:
    """Set a git and a DVC remote under one name, and commit what other clones need to know of it.

    Asked again with the same URLs it sets the options and finishes what was interrupted.

    Args:
        at: The model repo.
        name: The remote's name.
        git_url: What `git clone` takes.
        data_url: What `dvc remote add` takes.
        options: DVC's options of the protocol; secret ones stay on this machine.
        now: The commit's time.
        progress: Hears of what a killed command left.

    Raises:
        RemoteError: the name is odd or taken, or DVC knows no such protocol or option.
        MissingExtra: the protocol's package is not installed.
        RepoError: HEAD is on no branch, or a batch is in progress.
    """
    with Lock(at, f"mvc remote add {name}"):
        head, branch = _ready(at, progress)
        remotes.add(at, name, git_url, data_url, options)
        places.pin(at, name)
        _commit(at, head, branch, f"Add remote {name}", now)
    return next(each for each in remote(at) if each.name == name)


def place(at: Layout, name: str, data_url: str, options: Mapping[str, str] | None = None) -> Remote:
    """Let this machine look for a remote's objects at `data_url`; nothing is committed.

    For a remote whose objects moved: what a pull brings does not change where this machine looks.

    Args:
        at: The model repo.
        name: A remote that is there.
        data_url: What `dvc remote add` takes.
        options: DVC's options of the protocol.

    Raises:
        RemoteError: there is no such remote, or DVC knows no such protocol or option.
        MissingExtra: the protocol's package is not installed.
    """
    with Lock(at, f"mvc remote place {name}"):
        remotes.get(at, name)
        places.place(at, name, data_url, options)
    return next(each for each in remote(at) if each.name == name)


def remove(
    at: Layout, name: str, *, now: datetime | None = None, progress: Progress = SILENT
) -> Remote:
    """Forget a remote, here and for later clones; what is stored there stays there.

    Raises:
        RemoteError: there is none of that name.
        RepoError: HEAD is on no branch, or a batch is in progress.
    """
    with Lock(at, f"mvc remote remove {name}"):
        head, branch = _ready(at, progress)
        gone = next((each for each in remote(at) if each.name == name), None)
        remotes.remove(at, name)
        _commit(at, head, branch, f"Remove remote {name}", now)
    assert gone is not None
    return gone


def _ready(at: Layout, progress: Progress) -> tuple[str, str]:
    """HEAD's commit and branch, once it is sure that a commit can be made there."""
    if done := workspace.recover(at):
        progress.note(done)
    branch, head = workspace.head(at.root)
    if branch is None or head is None:
        raise RepoError(
            "HEAD is on no branch, and a remote is recorded in a commit",
            "`mvc checkout main` first",
        )
    if run.has_checkpoint(at):
        raise RepoError(
            "a batch is in progress, and a commit would come between it and its parent",
            "finish it first: `mvc status` names its file",
        )
    return head, branch


def _commit(at: Layout, head: str, branch: str, subject: str, now: datetime | None) -> None:
    """Commit .dvc/config as it is now, if HEAD has another."""
    text = (at.root / DVC_CONFIG).read_bytes()
    if history.file_at(at.root, head, DVC_CONFIG) == text:
        return
    when = now or datetime.now(config.zone(config.load(at)))
    new = Commit(
        commit="",
        parents=(head,),
        kind="other",
        batch=None,
        time=when,
        message=subject,
        lifetime_step=made_by_mvc(at, head).lifetime_step,
    )
    workspace.promote(
        at,
        workspace.NewCommit(
            message=messages.format_message(new),
            files={DVC_CONFIG: text},
            pointers=(),
            parent=head,
            branch=branch,
            when=when,
        ),
    )
