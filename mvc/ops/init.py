"""`mvc init`: a new model repo, with its untrained state as the first commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mvc.ops import new_repo, record
from mvc.settings import BaseSettings
from mvc.store import config, history, layout, messages, objects, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, Commit, InitResult, Progress

_VERB = "mvc init DIR --base ..."


def init(
    directory: Path,
    base: str,
    *,
    revision: str = "",
    sets: Sequence[str] = (),
    trust_remote_code: bool = False,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> InitResult:
    """Make a model repo in `directory` and commit the untrained state.

    The line's start can so be checked out, and every batch has a parent.

    Args:
        directory: a new or empty folder.
        base: hub id, folder, GGUF file, `package:NAME`, or a short name.
        revision: of a hub id; it is pinned to the commit that it names today.
        sets: "KEY=VALUE" lines for mvc.toml.
        trust_remote_code: let this repo run the code that the base comes with, here, from now on.
        now: the commit's time.
        progress: hears of the phases.

    Raises:
        RepoError: the folder holds something already.
        BaseModelError: the base cannot be found or read, or comes with code that is not allowed.
        ConfigError: a wrong key or value in `sets`, or LoRA fits no module of the base.
    """
    new_repo.refuse_occupied(directory, _VERB)
    # A wrong --set must not cost the wait for a base, nor leave anything behind.
    config.parse(config.new_text(BaseSettings(model=base, revision=revision), sets))
    progress.stage("Reading the base model")
    pinned = new_repo.pin_base(
        base, revision, trust_remote_code=trust_remote_code, verb="mvc init ..."
    )
    text = config.new_text(pinned.settings, sets)
    with new_repo.new_folder(directory, pinned.allowed) as at:
        return _build(at, text, pinned.allowed, now, progress)


def _build(
    at: Layout, text: str, allowed: str, now: datetime | None, progress: Progress
) -> InitResult:
    settings = config.parse(text)
    folder = at.run / "state"
    folder.mkdir(parents=True)
    progress.stage("Making the adapter")
    from mvc.engine import environment, session
    from mvc.engine.base import precision_dtype

    files, num_parameters = session.create(settings, at.root, folder, allowed)
    world = environment.describe(precision_dtype(settings.train.precision), world_size=1)
    progress.stage("Committing the start of the line")
    state = objects.store_folder(at, folder, files, layout.STATE, record.state_meta(world, files))
    objects.remember(at, files)
    when = now or datetime.now(config.zone(settings))
    start = Commit(
        commit="",
        parents=(),
        kind="init",
        batch=0,
        time=when,
        message=messages.start_subject(settings.base.model, settings.lora.r),
    )
    new = workspace.NewCommit(
        message=messages.format_message(start),
        files=new_repo.first_files(at, text)
        | {layout.METRICS: record.metrics(start), layout.CURVE: record.curve_csv(())},
        pointers=(state,),
        parent=None,
        branch="main",
        when=when,
        ends="run",
    )
    with Lock(at, "mvc init"):
        commit = workspace.promote(at, new)
    return InitResult(
        root=at.root,
        commit=history.commit(at.root, commit),
        base=settings.base.model,
        digest=settings.base.digest,
        num_trainable_parameters=num_parameters,
    )
