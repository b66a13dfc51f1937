"""`mvc init`: a new model repo, with its untrained state as the first commit."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mvc.errors import RepoError
from mvc.ops import record
from mvc.settings import BaseSettings
from mvc.store import config, git, history, layout, objects, workspace
from mvc.store.layout import Layout
from mvc.types import SILENT, Commit, InitResult, Progress

_IGNORED = (layout.STATE, layout.BATCH, layout.LOGS, layout.PRIVATE)


def init(
    directory: Path,
    base: str,
    *,
    revision: str = "",
    sets: Sequence[str] = (),
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
        now: the commit's time.
        progress: hears of the phases.

    Raises:
        RepoError: the folder holds something already.
        BaseModelError: the base cannot be found or read.
        ConfigError: a wrong key or value in `sets`, or LoRA fits no module of the base.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise _occupied(directory)
    if directory.exists() and not directory.is_dir():
        raise RepoError(f"{directory} is a file", "name a new folder: `mvc init DIR --base ...`")
    # A wrong --set must not cost the wait for a base, nor leave anything behind.
    config.parse(config.new_text(BaseSettings(model=base, revision=revision), sets))
    progress.stage("Reading the base model")
    from mvc.engine import base as bases

    found = bases.resolve(base, revision, Path.cwd())
    local = Path(base).expanduser()
    ref = str(local.resolve()) if local.exists() and base not in bases.ALIASES else base
    text = config.new_text(
        BaseSettings(model=ref, revision=found.revision, digest=found.digest), sets
    )
    existed = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepoError(
            f"{directory} cannot be made: {error.strerror}", "name a folder that you may write to"
        ) from error
    try:
        return _build(Layout(directory.resolve()), text, now, progress)
    except BaseException:
        # Nothing of a failed init stays: the folder was new or empty.
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed:
            directory.rmdir()
        raise


def _occupied(directory: Path) -> RepoError:
    """What a folder that is not empty is, and the way out."""
    name = shlex.quote(str(directory))
    if not (directory / layout.PRIVATE).is_dir():
        what, way = "is not empty", "name a new folder: `mvc init DIR --base ...`"
        if (directory / layout.CONFIG).exists():
            what = "is a model repo already"
    elif not git.try_read(
        directory, f"--git-dir={directory / '.git'}", "rev-parse", "-q", "--verify", "HEAD^{commit}"
    ):
        what = "is what an interrupted `mvc init` left"
        way = f"`rm -r {name}`, then run the same `mvc init` again"
    elif (directory / layout.CONFIG).exists():
        what, way = "is a model repo already", "name a new folder: `mvc init DIR --base ...`"
    else:
        what = f"is a model repo without {layout.CONFIG}"
        way = f"`git -C {name} checkout HEAD -- {layout.CONFIG}` brings it back"
    return RepoError(f"{directory} {what}", way)


def _build(at: Layout, text: str, now: datetime | None, progress: Progress) -> InitResult:
    settings = config.parse(text)
    at.private.mkdir()  # first, so that what a killed init leaves can be told from a user's folder
    git.write(at.root, "init", "--quiet", "--initial-branch=main")
    objects.init(at)
    folder = at.run / "state"
    folder.mkdir(parents=True)
    progress.stage("Making the adapter")
    from mvc.engine import environment, session
    from mvc.engine.base import precision_dtype

    files, num_parameters = session.create(settings, at.root, folder)
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
        message=history.start_subject(settings.base.model, settings.lora.r),
    )
    tracked = {path.relative_to(at.root).as_posix(): path for path in _dvc_files(at)}
    new = workspace.NewCommit(
        message=history.format_message(start),
        files={
            **{name: path.read_bytes() for name, path in tracked.items()},
            layout.CONFIG: text.encode(),
            ".gitignore": "".join(f"/{name}\n" for name in _IGNORED).encode(),
            layout.DVC_YAML: record.DVC_YAML,
            layout.METRICS: record.metrics(start),
            layout.CURVE: record.curve_csv(()),
        },
        pointers=(state,),
        parent=None,
        branch="main",
        when=when,
        ends_run=True,
    )
    commit = workspace.promote(at, new)
    return InitResult(
        root=at.root,
        commit=history.commit(at.root, commit),
        base=settings.base.model,
        digest=settings.base.digest,
        num_trainable_parameters=num_parameters,
    )


def _dvc_files(at: Layout) -> list[Path]:
    """The files that `dvc init` made for git to track."""
    names = (".dvc/config", ".dvc/.gitignore", ".dvcignore")
    return [at.root / name for name in names if (at.root / name).is_file()]
