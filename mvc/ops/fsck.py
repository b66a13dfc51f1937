"""`mvc fsck`: every stored object against its hash, every commit complete, the present sound."""

from __future__ import annotations

from collections.abc import Iterator

from mvc.errors import MvcError, ObjectCorrupt, ObjectMissing
from mvc.store import git, history, layout, objects, pointers, tracked
from mvc.store.layout import Layout
from mvc.types import SILENT, Commit, Finding, FsckResult, Pointer, Progress

_ALWAYS = {"adapter_model.safetensors", "adapter_config.json", "trainer_state.json"}
_TRAINED = {"optimizer.pt", "scheduler.pt", "optimizer_parameters.json"}
_MEND = "bring it back with `mvc pull` or `dvc fetch` from a remote that has it"
_MEND_GIT = "restore it from a clone: `git fetch` from a remote"

# What commits need: an object's md5 and the SHA-256 vouched for, and the first commit and path.
_Wanted = dict[tuple[str, str | None], tuple[Commit, str]]


def fsck(at: Layout, progress: Progress = SILENT) -> FsckResult:
    """Check everything that is reachable from any branch or tag; changes nothing.

    Each object is read once, however many commits name it, and compared with DVC's md5 and with
    the SHA-256 that the commits vouch for.
    """
    findings: list[Finding] = list(_git(at))
    try:
        commits = history.every(at.root)
    except git.GitFailed as error:
        # git names the commit; where the history breaks off, nothing says what it needs.
        commits = []
        findings.append(Finding(None, ".git", f"no commit was checked: {error}", _MEND_GIT))
    progress.stage(f"Checking {len(commits)} commits")
    wanted: _Wanted = {}
    for commit in commits:
        findings += _commit(at, commit, wanted)
    sizes: dict[str, int] = {}
    cache = pointers.cache_folder(at)
    for number, ((md5, sha256), (commit, path)) in enumerate(wanted.items(), 1):
        if number % 50 == 1:
            progress.stage(f"Checking objects ({number} of {len(wanted)})")
        found = pointers.object_path(cache, md5)
        problem = pointers.verify_object(at, md5)
        if problem is None and sha256:
            digest = objects.hash_file(found, path)
            if digest.sha256 != sha256:
                problem = "does not match the SHA-256 that its commit vouches for"
        if problem:
            findings.append(Finding(commit.commit, path, problem, _MEND))
        else:
            sizes[md5] = found.stat().st_size
    findings += _present(at)
    progress.stop()
    num_objects = len({md5 for md5, _ in wanted})
    return FsckResult(len(commits), num_objects, sum(sizes.values()), tuple(findings))


def _git(at: Layout) -> Iterator[Finding]:
    try:
        git.read(at.root, "fsck", "--full", "--no-dangling", "--no-progress")
    except git.GitFailed as error:
        for line in error.stderr.splitlines() or [error.message]:
            yield Finding(None, ".git", line, _MEND_GIT)


def _read(at: Layout, commit: Commit, names: list[str]) -> dict[str, bytes | None]:
    """Tracked files of a commit; None for what is not there, or damaged in git."""
    try:
        texts = git.cat(at.root, [f"{commit.commit}:{name}" for name in names])
    except git.GitFailed:  # one damaged blob must not hide the others
        return {name: tracked.blob(at.root, commit.commit, name) for name in names}
    return dict(zip(names, texts, strict=True))


def _commit(at: Layout, commit: Commit, wanted: _Wanted) -> Iterator[Finding]:
    """What a commit lacks; the objects that it needs go into `wanted`."""
    names = (layout.STATE_POINTER, layout.BATCH_POINTER)
    needed = [*names, layout.METRICS, layout.CURVE, layout.CONFIG]
    found = _read(at, commit, needed)
    if commit.kind == "other" and found[layout.STATE_POINTER] is None:
        return
    for name in needed:
        if found[name] is None and not (name == layout.BATCH_POINTER and commit.kind != "batch"):
            yield Finding(commit.commit, name, "is not in the commit", "`mvc log` shows the line")
    for name in names:
        text = found[name]
        if text is None:
            continue
        try:
            pointer = pointers.parse_pointer(text, name)
            entries = pointers.entries(at, pointer)
        except MvcError as error:
            damaged = isinstance(error, ObjectMissing | ObjectCorrupt)
            yield Finding(commit.commit, name, error.message, _MEND if damaged else error.hint)
            continue
        if name == layout.STATE_POINTER:
            yield from _complete(commit, {path for path, _, _ in entries})
        yield from _vouched(commit, name, pointer, {path for path, _, _ in entries})
        meta = pointer.meta.get("files", {})
        wanted.setdefault((pointer.md5, None), (commit, name))
        for path, md5, _ in entries:
            sha256 = meta.get(path, {}).get("sha256")
            wanted.setdefault((md5, sha256), (commit, f"{pointer.path}/{path}"))


def _complete(commit: Commit, paths: set[str]) -> Iterator[Finding]:
    needed = _ALWAYS | (_TRAINED if commit.lifetime_step else set())
    if commit.lifetime_step and not any(path.startswith("rng_state") for path in paths):
        needed = needed | {"rng_state.pth"}
    for name in sorted(needed - paths):
        hint = "training on from this commit is not possible; choose another with `mvc log`"
        yield Finding(commit.commit, f"{layout.STATE}/{name}", "is not in the state", hint)


def _vouched(commit: Commit, name: str, pointer: Pointer, paths: set[str]) -> Iterator[Finding]:
    """Files that DVC's folder object and the commit's own manifest disagree about."""
    vouched = pointer.meta.get("files")
    for path in sorted(paths ^ set(vouched)) if vouched else ():
        text = "is in the folder object or in the commit's manifest, not in both"
        yield Finding(commit.commit, f"{pointer.path}/{path}", text, _MEND)


def _present(at: Layout) -> Iterator[Finding]:
    from mvc.ops.revision import state_at

    _, head = tracked.head(at.root)
    if head is None:
        return
    hint = f"`mvc checkout {head[:10]}` brings it back; move your own changes away first"
    try:
        for path in objects.changed(at, state_at(at, head)):
            yield Finding(head, f"{layout.STATE}/{path}", "differs from HEAD's state", hint)
    except MvcError as error:
        yield Finding(head, layout.STATE, error.message, error.hint)
