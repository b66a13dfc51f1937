"""`mvc train`: one batch and one commit per file.

Owns which batch a file is, whether the line has it already, and turning a trained state into a
commit. The training is the engine's, the both-or-neither of the commit is the store's.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mvc.errors import (
    ConfigError,
    Interrupted,
    MvcError,
    RepoError,
    StoreError,
    TrainingFailed,
    UsageError,
)
from mvc.ops import batch, run
from mvc.store import config, history, user, workspace
from mvc.store.layout import Layout, find
from mvc.store.lock import Lock
from mvc.types import (
    SILENT,
    BatchPlan,
    BatchResult,
    DataFile,
    Progress,
    ShouldStop,
    never_stop,
)

if TYPE_CHECKING:
    from mvc.engine.launch import Run
    from mvc.settings import LaunchSettings


def train(
    at: Layout,
    paths: Sequence[Path],
    *,
    again: bool = False,
    message: str | None = None,
    nproc: int | None = None,
    node_rank: int = 0,
    restart: bool = False,
    now: datetime | None = None,
    progress: Progress = SILENT,
    should_stop: ShouldStop = never_stop,
) -> Iterator[BatchResult]:
    """Train each file as one batch, from where the last batch stopped, and commit it.

    Every file is read and checked before anything is touched. The lock is held from one commit
    to the next, not between them.

    Several processes may train together (DESIGN.md): as [launch] of mvc.toml says, or those of a
    launcher that has started this process as one of several. Then the repo is rank 0's; every
    other rank trains along and yields nothing, and neither the repo nor the files are read there.

    Args:
        at: the model repo.
        paths: data files, or folders of them.
        again: train a file also when its content is in the line already.
        message: a text for the commits, below their own subject.
        nproc: processes on this machine that train together, whatever [launch] says.
        node_rank: which machine of [launch] this one is; 0 has the repo.
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
    from mvc.engine import files, launch
    from mvc.engine.session import Session

    if follows():
        follow(at.root, should_stop)
        return
    if node_rank:
        how = _allowed(at, launch.resolve(config.load(at).launch, nproc))
        launch.assist(how, node_rank, at.root, progress, should_stop)
        return
    session, machines = Session(at.root), _machines(at, nproc)
    with launch.crew(session, machines, should_stop) as crew:
        session.allowed = user.permissions(at.root).remote_code
        batches = [files.identify(path) for path in paths]
        with Lock(at, "mvc train", moves=True):
            _recover(at, progress)
            batch.own_state(at, _begun(at), progress)  # the rows are read with its tokenizer
            settings = config.load(at)
        how = machines or launch.resolve(settings.launch, nproc)
        for data in batches:
            if again or history.find_batch(at.root, data.md5) is None:
                session.rows(settings, at.state, data.path, data.md5)
        for data in batches:
            with Lock(at, f"mvc train {shlex.quote(str(data.path))}", moves=True):
                _recover(at, progress)
                begun = run.kept(at, data, _begun(at)) or {}
                found = None if again or begun else history.find_batch(at.root, data.md5)
                if found:
                    run.drop_of(at, data, found.parents)
                    yield BatchResult(commit=found, already=True)
                    continue
                words = {
                    "again": again or begun.get("again", False),
                    "message": message or begun.get("message"),
                    "nproc": how.nproc * how.nnodes,
                    "nnodes": how.nnodes,
                }
                yield _train_one(at, data, crew, words, restart, now, progress, should_stop)
                session.forget(data.md5)


def _allowed(at: Layout, how: LaunchSettings) -> LaunchSettings:
    """`how`, once it is sure that this user lets the repo train with other machines there."""
    if how.nnodes > 1 and user.permissions(at.root).launch != how.rdzv_endpoint:
        raise ConfigError(
            f"mvc.toml has this machine train with others, at {how.rdzv_endpoint}: whoever joins "
            "there is sent the data, and you have not allowed it on this machine",
            "if it is a machine of yours, `mvc trust --launch` allows it, for this repo",
        )
    return how


def _machines(at: Layout, nproc: int | None) -> LaunchSettings | None:
    """[launch] as it stands, where it names several machines: they are met before anything can
    go wrong here, so that they hear of it."""
    from mvc.engine import launch

    try:
        found = launch.resolve(config.load(at).launch, nproc)
    except MvcError:
        return None  # raised in its place, when what was interrupted is recovered
    return _allowed(at, found) if found.nnodes > 1 else None


def refuse(error: MvcError) -> NoReturn:
    """Raise what keeps this process from beginning, and tell it to the ranks that wait for it.

    Raises:
        MvcError: `error`.
    """
    from mvc.engine import ranks, team
    from mvc.engine.session import Session

    if ranks.launched():
        with contextlib.suppress(MvcError), team.lead(Session(Path.cwd())):
            raise error
    raise error


def follows() -> bool:
    """Whether a launcher started this process as one that trains along, without a repo."""
    from mvc.engine import ranks

    found = ranks.launched()
    return found is not None and found[0] > 0


def follow(root: Path, should_stop: ShouldStop) -> None:
    """Train along with rank 0 until it is done.

    Args:
        root: where a base is looked for that is named by a relative path.
        should_stop: asked after every step.

    Raises:
        MvcError: what any rank raised.
    """
    from mvc.engine import team

    own = None
    with contextlib.suppress(RepoError):
        own = find(root).root
    team.follow(root, should_stop, own=own)


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
    crew: Run,
    words: dict[str, Any],
    restart: bool,
    now: datetime | None,
    progress: Progress,
    should_stop: ShouldStop,
) -> BatchResult:
    line = batch.line(at, progress)
    try:
        begun = batch.begin(at, line, data, words, restart=restart)
        result = crew(begun.job, progress, should_stop)
    except Interrupted as error:
        if not run.has_checkpoint(at):  # it stopped before its first step
            run.drop(at)
            raise
        raise Interrupted(error.message, f"`{run.command(at)}` goes on from there") from None
    except MvcError as error:
        # A batch that did not learn is not resumed, and one without a checkpoint never began.
        if isinstance(error, TrainingFailed) or not run.has_checkpoint(at):
            run.drop(at)
        raise
    progress.stage("Committing")
    done = batch.commit(at, begun, result, now=now)
    if line.branch is None:
        progress.note(f"HEAD was on no branch: started branch {done.branch}")
    return done


def dry_run(
    at: Layout,
    paths: Sequence[Path],
    *,
    dump: Path | None = None,
    nproc: int | None = None,
    progress: Progress = SILENT,
) -> list[BatchPlan]:
    """What each file would be as a batch; changes nothing.

    Args:
        at: the model repo.
        paths: data files, or folders of them.
        dump: write the rows as they would be trained, in order, one JSON object a line
            (`input_ids`, `labels`, and `seq_lengths` where rows are packed). A file there is
            replaced, unless it is one of `paths` or lies in the repo.
        nproc: processes that would train together, whatever [launch] says.
        progress: hears of the phases.

    Raises:
        DataError: a file cannot be a batch.
        StoreError: `dump` cannot be written.
    """
    from mvc.engine import files, launch, ranks, rows
    from mvc.engine.session import Session

    if dump and dump.exists():
        inside = dump.resolve().is_relative_to(at.root.resolve())
        if inside or any(path.exists() and dump.samefile(path) for path in paths):
            raise UsageError(
                f"--dump would overwrite {dump}", "name a new file: `--dump rows.jsonl`"
            )
    settings = config.load(at)
    how, launched = settings.train, launch.resolve(settings.launch, nproc)
    num_ranks = launched.nproc * launched.nnodes
    session = Session(at.root, user.permissions(at.root).remote_code)
    plans, lines = [], []
    for path in paths:
        data = files.identify(path)
        progress.stage(f"Reading {data.name}")
        found = session.rows(settings, at.state, path, data.md5)
        order = ranks.even(rows.order(found, how, data.md5), how.micro_batch_size, num_ranks)
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
                num_steps=rows.num_steps(len(order), how, num_ranks),
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
