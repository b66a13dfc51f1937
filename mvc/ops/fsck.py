"""`mvc fsck`: every stored object against its hash, every commit complete, the present sound.

With a remote, what lies there is read and hashed too; with `repair`, what is damaged on one side
is brought from the other (`mend`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from mvc.errors import MvcError, ObjectCorrupt, ObjectMissing
from mvc.keeping import State
from mvc.ops.given_up import state_given_up
from mvc.sharing import Wanted
from mvc.store import (
    collected,
    git,
    history,
    layout,
    manifest,
    objects,
    pointers,
    refs,
    remotes,
    tracked,
)
from mvc.store.layout import Layout
from mvc.store.survey import part
from mvc.types import SILENT, Commit, Finding, FsckResult, Pointer, Progress

_ALWAYS = {"adapter_model.safetensors", "adapter_config.json", "trainer_state.json"}
_TRAINED = {"optimizer.pt", "scheduler.pt", "optimizer_parameters.json"}
_MEND = "`mvc fsck --repair` brings it back from a remote that has it"
_MEND_GIT = "restore it from a clone: `git fetch` from a remote"


@dataclass
class Look:
    """What is being found out.

    `elsewhere` are commits that a remote has, whose objects come when they are needed, `given_up`
    what `mvc gc` left of those that it thinned or took; `wanted`
    maps an object's md5 and the SHA-256 vouched for to the first that names it; `here` are md5s
    that a commit needs which no remote has, or which is HEAD; `bad` is what does not hold here.
    `absent` are on a remote only, `gone` were let go of.
    """

    elsewhere: set[str]
    given_up: dict[str, State]
    wanted: dict[tuple[str, str | None], Wanted] = field(default_factory=dict)
    here: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    bad: list[Wanted] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)

    gone: set[str] = field(default_factory=set)

    def lack(self, md5: str, commit: str) -> None:
        """An object of `commit` is not here, and need not be."""
        (self.gone if commit in self.given_up else self.absent).add(md5)


def fsck(
    at: Layout,
    progress: Progress = SILENT,
    *,
    remote: str | None = None,
    sample: int | None = None,
    repair: bool = False,
) -> FsckResult:
    """Check everything that is reachable from any branch or tag; without `repair` change nothing.

    Each object is read once, however many commits name it, and compared with DVC's md5 and with
    the SHA-256 that the commits vouch for. Objects of commits that a remote has need not be here,
    HEAD's excepted: they are counted, and `remote` asks whether they are there.

    Args:
        at: The model repo.
        progress: Hears of the phases.
        remote: A remote whose objects are checked too, by reading them.
        sample: How many of the remote's files to read, drawn by chance; presence and size of all
            are asked. None reads all.
        repair: Bring what is damaged or missing here from the remote (by default the one that the
            branch follows), and what is damaged there from here.

    Raises:
        RemoteError: there is no such remote, or it cannot be reached.
        LockHeld: `repair`, and another process writes to this repo.
    """
    from mvc.ops import mend

    result, look = _look(at, progress)
    wrong = mend.remote(at, remote, sample, progress) if remote is not None else []
    num_repaired = 0
    for _ in range(2):  # only a mended list of files tells which of them are bad too
        if not repair or not (look.bad or wrong):
            break
        num_repaired += mend.repair(at, remote, look.bad, wrong, progress)
        result, look = _look(at, progress)
        if remote is not None:
            wrong = mend.remote(at, remote, sample, progress, [each for each, _ in wrong])
    progress.stop()
    there = [
        Finding(each.commit, each.path, f"on remote {remote}: {problem}", mend.cure(str(remote)))
        for each, problem in wrong
    ]
    return replace(
        result,
        findings=(*result.findings, *there),
        num_absent=len(look.absent),
        num_given_up=len(look.gone),
        num_repaired=num_repaired,
        num_excused=mend.excused(at, remote) if remote is not None else 0,
    )


def _look(at: Layout, progress: Progress) -> tuple[FsckResult, Look]:
    """What is wrong here."""
    look = Look(_elsewhere(at), collected.read(at))
    _, head = tracked.head(at.root)
    if head and (left := state_given_up(at, head)):  # by a remote, perhaps, before the clone
        look.given_up[head] = left
    look.findings += _git(at)
    try:
        commits = history.every(at.root)
    except git.GitFailed as error:
        # git names the commit; where the history breaks off, nothing says what it needs.
        commits = []
        look.findings.append(Finding(None, ".git", f"no commit was checked: {error}", _MEND_GIT))
    progress.stage(f"Checking {len(commits)} commits")
    for commit in commits:
        look.findings += _commit(at, commit, look)
    sizes: dict[str, int] = {}
    cache = pointers.cache_folder(at)
    for number, wanted in enumerate(look.wanted.values(), 1):
        if number % 50 == 1:
            progress.stage(f"Checking objects ({number} of {len(look.wanted)})")
        problem = _object(at, wanted)
        if problem == "missing" and wanted.md5 not in look.here:
            look.lack(wanted.md5, wanted.commit)
        elif problem:
            look.bad.append(wanted)
            look.findings.append(Finding(wanted.commit, wanted.path, problem, _MEND))
        else:
            sizes[wanted.md5] = pointers.object_path(cache, wanted.md5).stat().st_size
    look.findings += _present(at, look)
    num_objects = len({md5 for md5, _ in look.wanted} - look.absent - look.gone)
    counts = (len(commits), num_objects, sum(sizes.values()))
    return FsckResult(*counts, tuple(look.findings)), look


def _elsewhere(at: Layout) -> set[str]:
    """The commits whose objects a remote should have; never HEAD."""
    try:
        names = [remote.name for remote in remotes.listing(at) if remote.data_url]
    except MvcError:
        return set()
    found = {commit for name in names for commit in refs.reached(at.root, name)}
    return found - {git.try_read(at.root, "rev-parse", "HEAD") or ""}


def _git(at: Layout) -> Iterator[Finding]:
    try:
        git.read(at.root, "fsck", "--full", "--no-dangling", "--no-progress")
    except git.GitFailed as error:
        for line in git.lines(error.stderr) or [error.message]:
            yield Finding(None, ".git", line, _MEND_GIT)


def _object(at: Layout, wanted: Wanted) -> str | None:
    """What is wrong with an object here, or None."""
    problem = pointers.verify_object(at, wanted.md5)
    if problem is None and wanted.sha256:
        path = pointers.object_path(pointers.cache_folder(at), wanted.md5)
        digest = objects.hash_file(path, wanted.path)
        if digest.sha256 != wanted.sha256:
            return "does not match the SHA-256 that its commit vouches for"
        if wanted.size_bytes not in (None, digest.size_bytes):
            return f"is {digest.size_bytes} bytes, its commit vouches for {wanted.size_bytes}"
    return problem


def _read(at: Layout, commit: Commit, names: list[str]) -> dict[str, bytes | None]:
    """Tracked files of a commit; None for what is not there, or damaged in git."""
    try:
        texts = git.cat(at.root, [f"{commit.commit}:{name}" for name in names])
    except git.GitFailed:  # one damaged blob must not hide the others
        return {name: tracked.blob(at.root, commit.commit, name) for name in names}
    return dict(zip(names, texts, strict=True))


def _commit(at: Layout, commit: Commit, look: Look) -> Iterator[Finding]:
    """What a commit lacks; the objects that it needs go into `look`."""
    names = (layout.STATE_POINTER, layout.BATCH_POINTER)
    needed = [*names, layout.METRICS, layout.CURVE, layout.CONFIG]
    found = _read(at, commit, needed)
    if commit.kind == "other" and found[layout.STATE_POINTER] is None:
        return
    for name in needed:
        if found[name] is None and not (name == layout.BATCH_POINTER and commit.kind != "batch"):
            yield Finding(commit.commit, name, "is not in the commit", "`mvc log` shows the line")
    agreed = True
    for name in names:
        text = found[name]
        if text is None:
            continue
        for finding in _pointer(at, commit, name, text, look):
            agreed = False
            yield finding
    if agreed:  # what is left that only both pointers together tell
        try:
            manifest.files(at, [commit.commit])
        except ObjectMissing:
            pass
        except MvcError as error:
            yield Finding(commit.commit, layout.STATE_POINTER, error.message, error.hint)


def _pointer(at: Layout, commit: Commit, name: str, text: bytes, look: Look) -> Iterator[Finding]:
    """What is wrong with one pointer and its list of files."""
    left = look.given_up.get(commit.commit, "whole")
    far = commit.commit in look.elsewhere or left == "absent"
    try:
        pointer = pointers.parse_pointer(text, name)
    except MvcError as error:
        yield Finding(commit.commit, name, error.message, error.hint)
        return
    listing = Wanted(pointer.md5, None, None, name, commit.commit)
    try:
        entries = pointers.entries(at, pointer)
    except MvcError as error:
        if far and isinstance(error, ObjectMissing):
            look.lack(pointer.md5, commit.commit)
            return
        damaged = isinstance(error, ObjectMissing | ObjectCorrupt)
        if damaged and pointer.md5.endswith(".dir"):
            look.bad.append(listing)
        yield Finding(commit.commit, name, error.message, _MEND if damaged else error.hint)
        return
    paths = {path for path, _, _ in entries}
    if name == layout.STATE_POINTER:
        yield from _complete(commit, paths)
    yield from _vouched(commit, pointer, paths)
    meta = pointer.meta.get("files") or {}
    look.wanted.setdefault((pointer.md5, None), listing)
    for path, md5, _ in entries:
        entry = meta.get(path, {})
        wanted = Wanted(
            md5, entry.get("size"), entry.get("sha256"), f"{pointer.path}/{path}", commit.commit
        )
        look.wanted.setdefault((md5, wanted.sha256), wanted)
    if not far:
        kept = (md5 for path, md5, _ in entries if left == "whole" or not _moments(pointer, path))
        look.here |= {pointer.md5, *kept}


def _moments(pointer: Pointer, path: str) -> bool:
    return part(pointer.path, path) == "moments"


def _complete(commit: Commit, paths: set[str]) -> Iterator[Finding]:
    needed = _ALWAYS | (_TRAINED if commit.lifetime_step else set())
    if commit.lifetime_step and not any(path.startswith("rng_state") for path in paths):
        needed = needed | {"rng_state.pth"}
    for name in sorted(needed - paths):
        hint = "training on from this commit is not possible; choose another with `mvc log`"
        yield Finding(commit.commit, f"{layout.STATE}/{name}", "is not in the state", hint)


def _vouched(commit: Commit, pointer: Pointer, paths: set[str]) -> Iterator[Finding]:
    """Files that DVC's folder object and the commit's own manifest disagree about."""
    vouched = pointer.meta.get("files")
    for path in sorted(paths ^ set(vouched)) if vouched else ():
        text = "is in the folder object or in the commit's manifest, not in both"
        hint = "the commit itself is wrong: use another one, and tell whoever made it"
        yield Finding(commit.commit, f"{pointer.path}/{path}", text, hint)


def _present(at: Layout, look: Look) -> Iterator[Finding]:
    from mvc.ops.revision import state_at

    _, head = tracked.head(at.root)
    if head is None:
        return
    hint = f"`mvc checkout {head[:10]}` brings it back; move your own changes away first"
    try:
        thin = head in look.given_up
        for path in objects.changed(at, state_at(at, head)):
            if thin and part(layout.STATE, path) == "moments" and not (at.state / path).exists():
                continue
            yield Finding(head, f"{layout.STATE}/{path}", "differs from HEAD's state", hint)
    except MvcError as error:
        yield Finding(head, layout.STATE, error.message, error.hint)
