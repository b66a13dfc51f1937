"""`mvc clone`: a model repo from its remote, with the newest state; older ones come when needed.

Where the objects are stands in the repo's own `.dvc/config`. Killed and run again, it goes on
from what arrived.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mvc.errors import MvcError, RemoteError, RepoError
from mvc.ops.fetch import bring
from mvc.ops.remote import DVC_CONFIG
from mvc.ops.verify import require_trusted
from mvc.sharing import CloneResult, Remote
from mvc.store import (
    files,
    foreign,
    git,
    git_locks,
    history,
    objects,
    places,
    pointers,
    refs,
    remotes,
    tracked,
    workspace,
)
from mvc.store.layout import CONFIG, PRIVATE, Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, Progress

_DEFAULT = "origin"


def clone(
    url: str,
    directory: Path | None = None,
    *,
    data_url: str | None = None,
    options: Mapping[str, str] | None = None,
    adapter_only: bool = False,
    all_states: bool = False,
    progress: Progress = SILENT,
) -> CloneResult:
    """Make a clone of the model repo at `url`, its remote and DVC remote set up.

    Args:
        url: What `git clone` takes.
        directory: A new or empty folder, or one that a killed clone of `url` left; by default
            named as the URL ends.
        data_url: Where the objects are, for a repo that does not say so itself, or not rightly:
            what it says stays as it is, and this machine looks at `data_url`.
        options: DVC's options of the data URL's protocol, for this machine.
        adapter_only: Fetch only what inference needs; a later pull completes it.
        all_states: Fetch the objects of every commit.
        progress: Hears of the phases and bytes.

    Raises:
        RepoError: the folder holds something, or `url` holds no model repo.
        RemoteError: `url` or the data URL cannot be reached, or the repo names no data URL.
        SignatureError: this user asks for signatures and the commit has none to trust.
        ObjectCorrupt: what the remote sent does not hold. In all these cases nothing is left,
            unless objects had arrived: then the folder stays for the next try.
    """
    url = _absolute(url)
    root = (directory if directory is not None else Path(_name_of(url))).absolute()
    at = Layout(root)
    mark = at.private / "clone"
    sign = hashlib.sha256(url.encode()).hexdigest()  # the URL itself may hold a password
    try:
        existed = root.exists()
        begun = (mark.is_file() and mark.read_text() == sign) or _just_begun(at)
        if existed and not begun and (not root.is_dir() or any(root.iterdir())):
            raise RepoError(f"{root} is not empty", "name a new folder: `mvc clone URL DIR`")
        at.private.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepoError(
            f"{root} cannot be made: {error.strerror}",
            "name a folder where you may write: `mvc clone URL DIR`",
        ) from error
    try:
        files.atomic_write(mark, sign.encode())
        with Lock(at, "mvc clone"):
            result = _clone(at, url, data_url, options, adapter_only, all_states, progress)
            mark.unlink()
        return result
    except MvcError:
        if not begun and not _has_objects(at):
            for path in root.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not existed:
                root.rmdir()
        raise


def _clone(
    at: Layout,
    url: str,
    data_url: str | None,
    options: Mapping[str, str] | None,
    adapter_only: bool,
    all_states: bool,
    progress: Progress,
) -> CloneResult:
    git.write(at.root, "init", "--quiet", "--initial-branch=main")
    git_locks.break_left(at)
    if done := workspace.recover(at):
        progress.note(done)
    progress.stage(f"Asking {remotes.masked(url)}")
    branch = refs.head_branch(at, url)
    if branch is None:
        raise RepoError(f"{remotes.masked(url)} holds no commit yet", "`mvc push` to it first")
    if tracked.head_name(at.root) != f"refs/heads/{branch}":
        git.write(at.root, "symbolic-ref", "HEAD", f"refs/heads/{branch}")
    tip = refs.fetch_branch(at, url, branch)
    if tracked.blob(at.root, tip, CONFIG) is None:
        raise RepoError(
            f"{remotes.masked(url)} is no model repo: its branch {branch} has no {CONFIG}",
            "`git clone` it, if it is what you want",
        )
    foreign.check_commit(at, tip)
    require_trusted(at, tip)
    remote = _set_up(at, url, tip, data_url, options)
    seen = refs.fetch_refs(at, remote.name)
    wanted = [tip, *(refs.reached(at.root, remote.name) if all_states else ())]
    with objects.opened(at):
        moved = bring(at, remote.name, wanted, progress, adapter_only=adapter_only)
        progress.stage("Bringing the workspace")
        words = f"clone: from {remotes.masked(url)}"
        _advance(at, tip, branch, words, adapter_only)
    refs.follow(at, branch, remote.name)
    progress.stop()
    return CloneResult(
        root=at.root,
        remote=remote.name,
        branch=branch,
        head=history.commit(at.root, tip),
        num_commits=len(refs.ancestors(at.root, [tip])),
        snapshots=seen.new_snapshots,
        partial=any(pointers.missing(at, p) for p in tracked.pointers_of(at.root, tip)),
        objects=moved,
    )


def _advance(at: Layout, tip: str, branch: str, words: str, partial: bool) -> None:
    """Bring the workspace, and leave in it what `--data` said about the remote."""
    path = at.root / DVC_CONFIG
    ours, text = path.read_bytes(), tracked.blob(at.root, tip, DVC_CONFIG)
    if text is not None and ours != text:
        files.atomic_write(path, text, half=files.temporary(at.private))
    workspace.advance(at, tip, branch, words, partial=partial)
    if ours != text:
        files.atomic_write(path, ours, half=files.temporary(at.private))


def _set_up(
    at: Layout, url: str, tip: str, data_url: str | None, options: Mapping[str, str] | None
) -> Remote:
    """DVC's files from the commit, and git's remote under the name of DVC's."""
    for name in objects.INIT_FILES:
        text = tracked.blob(at.root, tip, name)
        if text is not None and not (at.root / name).exists():
            files.atomic_write(at.root / name, text, half=files.temporary(at.private))
    if not (at.root / DVC_CONFIG).is_file():
        raise RepoError(
            f"{remotes.masked(url)} is no model repo: it has no {DVC_CONFIG}",
            "`git clone` it, if it is what you want",
        )
    known = [each for each in remotes.listing(at) if each.data_url]
    chosen = next((each for each in known if each.default), known[0] if len(known) == 1 else None)
    if chosen is None and data_url is None:
        names = ", ".join(each.name for each in known)
        raise RemoteError(
            f"{remotes.masked(url)} does not say where its objects are"
            + (f": it names {names} and prefers none" if known else ""),
            "name the place: `mvc clone URL DIR --data URL`; or have it recorded there with "
            "`mvc remote add` and `mvc push`",
        )
    name = chosen.name if chosen else _DEFAULT
    place = data_url or (chosen.data_url if chosen else None)
    assert place is not None
    remotes.require_name(name)
    if chosen is None or (options and data_url is None):
        remotes.add(at, name, url, place, options)
    else:
        if data_url is not None:
            places.place(at, name, data_url, options)
        if chosen.git_url is None:
            git.write(at.root, "remote", "add", "--", name, url)
    places.pin(at, name)
    return next(each for each in remotes.listing(at) if each.name == name)


def _absolute(url: str) -> str:
    """A folder's full path; any other URL as it is."""
    folder = Path(url).expanduser()
    return str(folder.resolve()) if "://" not in url and folder.exists() else url


def _name_of(url: str) -> str:
    path = urlsplit(url).path if "://" in url else url.rsplit(":", 1)[-1]
    name = Path(unquote(path.rstrip("/"))).name.removesuffix(".git").removesuffix(".bundle")
    if not name or name in (".", ".."):
        raise RepoError(
            f"{remotes.masked(url)} gives the clone no name", "name one: `mvc clone URL DIR`"
        )
    return name


def _just_begun(at: Layout) -> bool:
    """Whether a killed clone left a folder with nothing but its half-written mark."""
    some = [path.name for path in islice(at.root.iterdir(), 2)] if at.root.is_dir() else []
    return some == [PRIVATE] and all(
        path.name.startswith(files.TEMPORARY) for path in at.private.iterdir()
    )


def _has_objects(at: Layout) -> bool:
    return any(path.is_file() for path in (at.root / ".dvc" / "cache").rglob("*"))
