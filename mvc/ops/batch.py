"""A batch on its way: from the line's end over the run folder to its commit.

Owns what a batch begins from (`line`, `begin`) and the commit that it becomes (`commit`). The
steps between the two are the engine's; who calls them, `mvc train` or the daemon, decides when.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from mvc.errors import ConfigError, DataError, RepoError
from mvc.ops import given_up, record, run
from mvc.ops.revision import made_by_mvc, state_at
from mvc.settings import Settings
from mvc.store import (
    config,
    foreign,
    git,
    history,
    layout,
    manifest,
    messages,
    objects,
    pointers,
    user,
    workspace,
)
from mvc.store.layout import Layout
from mvc.types import (
    BatchResult,
    Commit,
    Data,
    DataFile,
    FileDigest,
    Loss,
    Progress,
    Rate,
    TrainResult,
)

if TYPE_CHECKING:
    from mvc.engine.gate import GateJob
    from mvc.engine.train import Job


ADAPTER = "adapter_model.safetensors"


class Line(msgspec.Struct, frozen=True):
    """The end of a line, where the next batch goes on.

    `head` is the commit, with the counters that belong to its state; `branch` is None on a
    detached HEAD. `settings` and `config_text` are mvc.toml's as it stands, `adapter_md5` the
    stored adapter's. `next_batch` is None where only the history tells the number.
    """

    head: Commit
    branch: str | None
    settings: Settings
    config_text: bytes
    adapter_md5: str
    next_batch: int | None = None


class Begun(msgspec.Struct, frozen=True):
    """A batch whose run folder is made: `copied` are its data files there, hashed."""

    line: Line
    data: DataFile
    job: Job
    copied: tuple[FileDigest, ...]
    message: str | None = None


def line(at: Layout, progress: Progress) -> Line:
    """The end of the line, once its state is whole and mvc.toml asks for nothing impossible.

    Raises:
        ConfigError: mvc.toml is wrong, or asks for what cannot change on a line.
        RepoError: the workspace is dirty, or HEAD is no state of ours.
        ObjectCorrupt: a stored file of the state is damaged.
    """
    settings = config.load(at)
    config_text = at.config.read_bytes()
    branch, parent = workspace.head(at.root)
    if parent is None:
        raise RepoError("this repo has no commit yet", "make a model repo with `mvc init`")
    head = _head(at, parent, settings)
    return Line(head, branch, settings, config_text, _clean_state(at, head, progress))


def follow(at: Layout, line: Line) -> Line:
    """`line` as HEAD is now: a commit by hand that left the state alone becomes the parent.

    Where it changed mvc.toml, the next commit keeps that, so that it is not taken back; a change
    that no line allows is not kept.
    """
    branch, here = workspace.head(at.root)
    head = line.head.commit
    if here is None or here == head or branch != line.branch:
        return line
    if git.try_read(at.root, "merge-base", "--is-ancestor", head, here) is None:
        return line
    if state_at(at, here).md5 != state_at(at, head).md5:
        return line
    line = replace(line, head=replace(line.head, commit=here))
    before, now = (history.file_at(at.root, each, layout.CONFIG) for each in (head, here))
    with suppress(ConfigError, UnicodeDecodeError):
        if now is not None and now != before:
            config.check_line(config.parse(now.decode(), f"mvc.toml of {here[:10]}"), line.settings)
            return replace(line, config_text=now)
    return line


def begin(
    at: Layout, line: Line, data: DataFile, words: dict[str, Any], *, restart: bool = False
) -> Begun:
    """Make the run folder this batch's.

    Args:
        at: the model repo.
        line: what it goes on from. An empty hash of its head means: not committed yet.
        data: the file or folder.
        words: the command's own: `again`, `message`, and `nproc` in all on `nnodes` machines.
        restart: throw away the checkpoint of another batch in progress.

    Raises:
        ConfigError: there is no file that gate.data names.
        RepoError: another batch in progress has a checkpoint and `restart` is false.
        DataChanged: the file changed while it was read.
    """
    from mvc.engine import fsdp
    from mvc.engine.train import Job

    sharded = words["nproc"] > 1 and line.settings.launch.fsdp
    job = Job(
        settings=line.settings,
        root=str(at.root),
        data=str(at.run / "data" / data.name),
        data_name=data.name,
        data_md5=data.md5,
        state=str(at.state),
        run=str(at.run),
        parent=line.head.commit,
        lifetime_step=line.head.lifetime_step,
        adapter_md5=line.adapter_md5,
        nproc=words["nproc"],
        nnodes=words.get("nnodes", 1),
        allowed=user.permissions(at.root).remote_code,
        gate=_gate(at, line),
        fsdp=fsdp.read(at.root / line.settings.launch.fsdp) if sharded else None,
    )
    words = words | {"settings": msgspec.to_builtins(line.settings)}
    key = job.key if line.head.commit else ""
    copied = run.begin(at, data, line.head.commit, key, restart=restart, **words)
    return Begun(line, data, job, copied, words.get("message"))


def commit(
    at: Layout,
    begun: Begun,
    result: TrainResult,
    *,
    folder: Path | None = None,
    now: datetime | None = None,
) -> BatchResult:
    """Make the trained batch the line's next commit; the caller holds the lock.

    Args:
        at: the model repo.
        begun: the batch, its parent committed.
        result: its state on disk.
        folder: its run folder, which goes with the commit; by default `.mvc/run`.
        now: the commit's time.

    Raises:
        StoreError: HEAD or the branch moved meanwhile; nothing was changed.
        DiskFull: no room; the old state is whole.
    """
    line, folder = begun.line, folder or at.run
    state = objects.store_folder(
        at,
        result.state_dir,
        result.files,
        layout.STATE,
        record.state_meta(result.environment, result.files),
    )
    batch = objects.store_folder(
        at, folder / "data", begun.copied, layout.BATCH, record.files_meta(begun.copied)
    )
    new = _commit_of(at, begun, result, now)
    to = line.branch or _new_branch(at, line.head)
    rate = result.num_tokens / max(result.seconds, 1e-9)
    new_commit = workspace.NewCommit(
        message=messages.format_message(new, begun.message),
        files={
            layout.CONFIG: line.config_text,
            layout.DVC_YAML: record.DVC_YAML,
            layout.METRICS: record.metrics(new, rate, result.peak_memory_bytes),
            layout.CURVE: record.curve_csv(result.curve),
        },
        pointers=(state, batch),
        parent=line.head.commit,
        branch=to,
        when=new.time,
        ends="flight" if folder == at.flight else "run",
    )
    with objects.opened(at):
        objects.remember(at, [*result.files, *begun.copied])
        made = workspace.promote(at, new_commit)
    return BatchResult(
        commit=history.commit(at.root, made),
        branch=to,
        tokens_per_s=rate,
        peak_memory_bytes=result.peak_memory_bytes,
    )


def _gate(at: Layout, line: Line) -> GateJob | None:
    """[gate] of mvc.toml, with the value before the batch where the line's end knows it."""
    from mvc.engine import files
    from mvc.engine.gate import GateJob, key

    wanted, known = line.settings.gate, line.head.gate
    if not wanted.data:
        return None
    try:
        found = files.identify(at.root / wanted.data)
    except DataError as error:
        raise ConfigError(
            f"gate.data in mvc.toml: {error.message}",
            "name a file from the model repo's folder on, or empty gate.data for no gate",
        ) from error
    job = GateJob(
        data=str(found.path),
        md5=found.md5,
        key=key(found.md5, line.settings.train),
        metric=wanted.metric,
        bound=wanted.bound,
    )
    if known and (known.metric, known.md5) == (job.metric, job.key) and isfinite(known.value):
        return replace(job, before=known.value)
    return job


def _head(at: Layout, parent: str, settings: Settings) -> Commit:
    """HEAD's commit, once it is sure that mvc.toml asks for nothing that it cannot go on with."""
    made = made_by_mvc(at, parent)
    line = history.file_at(at.root, made.commit, layout.CONFIG)
    if line is None:
        raise RepoError(
            f"commit {made.short} holds no {layout.CONFIG}",
            "`mvc checkout` a commit that `mvc log` lists, then train from there",
        )
    # What a later commit by hand says there is the user's wish, not what the line was trained with.
    config.check_line(settings, config.parse(line.decode(), f"mvc.toml of {made.short}"))
    # A hand's commit may hold another state than the one that was measured.
    gate = made.gate if state_at(at, made.commit).md5 == state_at(at, parent).md5 else None
    return replace(made, commit=parent, gate=gate)


def _clean_state(at: Layout, head: Commit, progress: Progress) -> str:
    """Make sure that current_model/ is HEAD's state, every byte; returns the adapter's md5.

    Raises:
        RepoError: files in it were changed and are stored nowhere else, or the commit's tree
            reaches out of its place.
        ObjectCorrupt: a stored file is damaged, or the commit's manifest lies.
    """
    found = state_at(at, head.commit)
    foreign.check_commit(at, head.commit)
    vouched = manifest.files(at, [head.commit])
    state = [each for each in vouched if each.path.startswith(f"{layout.STATE}/")]
    with objects.opened(at):
        objects.verify(at, state)
        own_state(at, head.commit, progress)
    stored = {path: md5 for path, md5, _ in pointers.entries(at, found)}
    return stored.get(ADAPTER, "")  # without one the engine says what is wrong


def own_state(at: Layout, commit: str, progress: Progress) -> None:
    """Bring current_model/ back to `commit`'s state where files of it are missing.

    Raises:
        RepoError: files in it were changed and are stored nowhere else.
        ObjectMissing: `mvc gc` gave up the moments, and no remote has them.
    """
    found = state_at(at, commit)
    changed = objects.changed(at, found)
    if changed and (unsaved := objects.unsaved(at, layout.STATE)):
        raise RepoError(
            f"{layout.STATE}/ is not the state of HEAD: {', '.join(unsaved[:3])} "
            f"{'were' if len(unsaved) > 1 else 'was'} changed and is stored nowhere else",
            f"put your files elsewhere, then `mvc checkout {commit[:10]}`",
        )
    if changed:
        if given_up.state_given_up(at, commit):
            given_up.bring(at, commit, progress)
        objects.link(at, found)
        progress.note(f"{layout.STATE}/ was brought back to HEAD's state")


def _commit_of(at: Layout, begun: Begun, result: TrainResult, now: datetime | None) -> Commit:
    line, data = begun.line, begun.data
    losses = [point.loss for point in result.curve]
    rates = [point.learning_rate for point in result.curve]
    number = line.next_batch or history.next_batch(at.root, line.head.commit)
    new = Commit(
        commit="",
        parents=(line.head.commit,),
        kind="batch",
        batch=number,
        time=now or datetime.now(config.zone(line.settings)),
        message="",
        data=Data(data.name, data.md5, result.num_rows, result.num_tokens),
        steps=result.num_steps,
        lifetime_step=result.lifetime_step,
        loss=Loss(losses[0], losses[-1], sum(losses) / len(losses)),
        learning_rate=Rate(rates[0], rates[-1]),
        seconds=result.seconds,
        curve=tuple(losses),
        warnings=result.warnings,
        gate=result.gate,
    )
    return replace(new, message=messages.batch_subject(new))


def _new_branch(at: Layout, head: Commit) -> str:
    """A name for the branch that a batch starts on a detached HEAD."""
    from mvc.store import git

    at_batch = head.short if head.batch is None else f"batch-{head.batch}"
    stem = f"from-{head.snapshots[0] if head.snapshots else at_batch}"
    taken = set(git.lines(git.read(at.root, "for-each-ref", "--format=%(refname:short)")))
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name
