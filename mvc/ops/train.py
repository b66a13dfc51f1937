"""`mvc train`: one batch and one commit per file.

Owns which batch a file is, whether the line has it already, and turning a trained state into a
commit. The training is the engine's, the both-or-neither of the commit is the store's.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mvc.errors import Interrupted, MvcError, RepoError, StoreError, TrainingFailed, UsageError
from mvc.ops import record, run
from mvc.ops.revision import made_by_mvc, state_at
from mvc.settings import Settings
from mvc.store import config, foreign, history, layout, manifest, objects, pointers, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import (
    SILENT,
    BatchPlan,
    BatchResult,
    Commit,
    Data,
    DataFile,
    Loss,
    Progress,
    Rate,
    ShouldStop,
    TrainResult,
    never_stop,
)

if TYPE_CHECKING:
    from mvc.engine.session import Session


def train(
    at: Layout,
    paths: Sequence[Path],
    *,
    again: bool = False,
    message: str | None = None,
    nproc: int = 1,
    restart: bool = False,
    now: datetime | None = None,
    progress: Progress = SILENT,
    should_stop: ShouldStop = never_stop,
) -> Iterator[BatchResult]:
    """Train each file as one batch, from where the last batch stopped, and commit it.

    Every file is read and checked before anything is touched. The lock is held from one commit
    to the next, not between them.

    Args:
        at: the model repo.
        paths: data files, or folders of them.
        again: train a file also when its content is in the line already.
        message: a text for the commits, below their own subject.
        nproc: processes on this machine that train together.
        restart: throw away the checkpoint of another batch in progress.
        now: the commits' time.
        progress: hears of phases, steps and notes.
        should_stop: asked after every step.

    Yields:
        The result of each file, as soon as it is committed.

    Raises:
        DataError: a file cannot be a batch.
        ConfigError: mvc.toml is wrong, or asks for what cannot change on a line.
        RepoError: the workspace is dirty, or another batch is in progress.
        LockHeld: another process writes to this repo.
        EngineError: the batch did not train; HEAD has not moved.
        Interrupted: `should_stop` answered yes; the checkpoint is kept.
    """
    from mvc.engine import files
    from mvc.engine.session import Session

    batches = [files.identify(path) for path in paths]
    session = Session(at.root)
    with Lock(at, "mvc train"):
        _recover(at, progress)
        _own_state(at, _begun(at), progress)  # the rows are read with its tokenizer
        settings = config.load(at)
    for data in batches:
        if again or history.find_batch(at.root, data.md5) is None:
            session.rows(settings, at.state, data.path, data.md5)
    for data in batches:
        with Lock(at, f"mvc train {shlex.quote(str(data.path))}"):
            _recover(at, progress)
            begun = run.kept(at, data, _begun(at)) or {}
            found = None if again or begun else history.find_batch(at.root, data.md5)
            if found:
                run.drop_of(at, data, found.parents)
                yield BatchResult(commit=found, already=True)
                continue
            words = {"again": again or begun.get("again", False), "nproc": nproc}
            words["message"] = message or begun.get("message")
            yield _train_one(at, data, session, words, restart, now, progress, should_stop)
            session.forget(data.md5)


def _recover(at: Layout, progress: Progress) -> None:
    if done := workspace.recover(at):
        progress.note(done)


def _begun(at: Layout) -> str:
    """HEAD's commit; RepoError where there is none yet."""
    _, head = workspace.head(at.root)
    if head is None:
        raise RepoError(
            "this repo has no commit yet; its `mvc init` was interrupted",
            "delete the folder and run `mvc init` again",
        )
    return head


def _train_one(
    at: Layout,
    data: DataFile,
    session: Session,
    words: dict[str, Any],
    restart: bool,
    now: datetime | None,
    progress: Progress,
    should_stop: ShouldStop,
) -> BatchResult:
    from mvc.engine import launch
    from mvc.engine import train as engine

    settings = config.load(at)
    config_text = at.config.read_bytes()
    branch, parent = workspace.head(at.root)
    assert parent is not None  # `train` has looked
    head = _head(at, parent, settings)
    adapter_md5 = _clean_state(at, head, progress)
    job = engine.Job(
        settings=settings,
        root=str(at.root),
        data=str(at.run / "data" / data.name),
        data_name=data.name,
        data_md5=data.md5,
        state=str(at.state),
        run=str(at.run),
        parent=head.commit,
        lifetime_step=head.lifetime_step,
        adapter_md5=adapter_md5,
        nproc=words["nproc"],
    )
    words = words | {"settings": msgspec.to_builtins(settings)}
    try:
        copied = run.begin(at, data, head.commit, job.key, restart=restart, **words)
        if job.nproc > 1:
            result = launch.run(job, job.nproc, progress, should_stop)
        else:
            result = engine.run(job, session, progress, should_stop)
    except Interrupted as error:
        raise Interrupted(error.message, f"`{run.command(at)}` goes on from there") from None
    except MvcError as error:
        # A batch that did not learn is not resumed, and one without a checkpoint never began.
        if isinstance(error, TrainingFailed) or not run.has_checkpoint(at):
            run.drop(at)
        raise
    progress.stage("Committing")
    state = objects.store_folder(
        at,
        result.state_dir,
        result.files,
        layout.STATE,
        record.state_meta(result.environment, result.files),
    )
    batch = objects.store_folder(
        at, at.run / "data", copied, layout.BATCH, record.files_meta(copied)
    )
    objects.remember(at, [*result.files, *copied])
    new = _commit_of(at, data, head, result, settings, now)
    to = branch or _new_branch(at, head)
    rate = result.num_tokens / max(result.seconds, 1e-9)
    commit = workspace.promote(
        at,
        workspace.NewCommit(
            message=history.format_message(new, words["message"]),
            files={
                layout.CONFIG: config_text,
                layout.DVC_YAML: record.DVC_YAML,
                layout.METRICS: record.metrics(new, rate, result.peak_memory_bytes),
                layout.CURVE: record.curve_csv(result.curve),
            },
            pointers=(state, batch),
            parent=head.commit,
            branch=to,
            when=new.time,
            ends_run=True,
        ),
    )
    if branch is None:
        progress.note(f"HEAD was on no branch: started branch {to}")
    return BatchResult(
        commit=history.commit(at.root, commit),
        branch=to,
        tokens_per_s=rate,
        peak_memory_bytes=result.peak_memory_bytes,
    )


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
    return replace(made, commit=parent)


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
    objects.verify(at, state)
    _own_state(at, head.commit, progress)
    stored = {path: md5 for path, md5, _ in pointers.entries(at, found)}
    return stored.get("adapter_model.safetensors", "")  # without one the engine says what is wrong


def _own_state(at: Layout, commit: str, progress: Progress) -> None:
    """Bring current_model/ back to `commit`'s state where files of it are missing.

    Raises:
        RepoError: files in it were changed and are stored nowhere else.
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
        objects.link(at, found)
        progress.note(f"{layout.STATE}/ was brought back to HEAD's state")


def _commit_of(
    at: Layout,
    data: DataFile,
    head: Commit,
    result: TrainResult,
    settings: Settings,
    now: datetime | None,
) -> Commit:
    losses = [point.loss for point in result.curve]
    rates = [point.learning_rate for point in result.curve]
    new = Commit(
        commit="",
        parents=(head.commit,),
        kind="batch",
        batch=history.next_batch(at.root, head.commit),
        time=now or datetime.now(config.zone(settings)),
        message="",
        data=Data(data.name, data.md5, result.num_rows, result.num_tokens),
        steps=result.num_steps,
        lifetime_step=result.lifetime_step,
        loss=Loss(losses[0], losses[-1], sum(losses) / len(losses)),
        learning_rate=Rate(rates[0], rates[-1]),
        seconds=result.seconds,
        curve=tuple(losses),
        warnings=result.warnings,
    )
    return replace(new, message=history.batch_subject(new))


def _new_branch(at: Layout, head: Commit) -> str:
    """A name for the branch that a batch starts on a detached HEAD."""
    from mvc.store import git

    at_batch = head.short if head.batch is None else f"batch-{head.batch}"
    stem = f"from-{head.snapshots[0] if head.snapshots else at_batch}"
    taken = set(git.read(at.root, "for-each-ref", "--format=%(refname:short)").splitlines())
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def dry_run(
    at: Layout,
    paths: Sequence[Path],
    *,
    dump: Path | None = None,
    nproc: int = 1,
    progress: Progress = SILENT,
) -> list[BatchPlan]:
    """What each file would be as a batch; changes nothing.

    Args:
        at: the model repo.
        paths: data files, or folders of them.
        dump: write the rows as they would be trained, in order, one JSON object a line
            (`input_ids`, `labels`, and `seq_lengths` where rows are packed). A file there is
            replaced, unless it is one of `paths` or lies in the repo.
        nproc: processes that would train together.
        progress: hears of the phases.

    Raises:
        DataError: a file cannot be a batch.
        StoreError: `dump` cannot be written.
    """
    from mvc.engine import files, ranks, rows
    from mvc.engine.session import Session

    if dump and dump.exists():
        inside = dump.resolve().is_relative_to(at.root.resolve())
        if inside or any(path.exists() and dump.samefile(path) for path in paths):
            raise UsageError(
                f"--dump would overwrite {dump}", "name a new file: `--dump rows.jsonl`"
            )
    settings = config.load(at)
    how = settings.train
    session = Session(at.root)
    plans, lines = [], []
    for path in paths:
        data = files.identify(path)
        progress.stage(f"Reading {data.name}")
        found = session.rows(settings, at.state, path, data.md5)
        order = ranks.even(rows.order(found, how, data.md5), how.micro_batch_size, nproc)
        plans.append(
            BatchPlan(
                data=data,
                num_rows=found.num_records,
                num_sequences=found.num_sequences,
                num_tokens=found.num_tokens,
                num_trainable_tokens=found.num_trainable_tokens,
                num_truncated=found.num_truncated,
                num_split=found.num_split,
                num_dropped=found.num_dropped,
                num_steps=rows.num_steps(len(order), how, nproc),
                passes=how.passes,
                max_length=how.max_length,
            )
        )
        for i in order if dump else ():
            row = {"input_ids": found.input_ids[i], "labels": found.labels[i]}
            if found.seq_lengths is not None:
                row["seq_lengths"] = found.seq_lengths[i]
            lines.append(json.dumps(row))
    progress.stop()
    if dump:
        try:
            dump.write_text("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise StoreError(
                f"{dump} cannot be written: {error.strerror}", "name a file in a folder of yours"
            ) from error
    return plans
