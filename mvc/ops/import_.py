"""`mvc import`: what another program trained becomes a model repo, one commit a state.

Owns which folder is what (an old script's, a Trainer's output, a single adapter), in which order
and at which times its states become commits, and what of mvc.toml they decide. The originals are
only read. Everything is looked at before the repo is made, and one ref, moved last, makes it one.
"""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mvc.errors import ConfigError, DataError, RepoError
from mvc.ops import new_repo, record
from mvc.ops.snapshot import pin
from mvc.settings import BaseSettings
from mvc.sharing import ImportResult
from mvc.store import config, history, layout, messages, objects, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, Commit, CurvePoint, FileDigest, Loss, Progress, Rate
from mvc.version import VERSION

if TYPE_CHECKING:
    from mvc.engine.adopt import Adoption
    from mvc.engine.foreign_state import Found

_VERB = "mvc import PATH DIR --base ..."
_ADAPTER = "adapter_model.safetensors"
_STATE_LOG = "trainer_state.json"
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_NIGHT = time(3)


class Source(msgspec.Struct, frozen=True):
    """A folder that becomes a commit; `day` is the snapshot that it was."""

    folder: Path
    name: str
    when: datetime
    day: str | None = None


def import_(
    path: Path,
    directory: Path,
    base: str,
    *,
    revision: str = "",
    sets: Sequence[str] = (),
    trust_remote_code: bool = False,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> ImportResult:
    """Make a model repo in `directory` of the states in `path`.

    Args:
        path: a folder with `current_model/` and `snapshots/YYYY-MM-DD/`; one with `checkpoint-N/`
            as a Trainer leaves it; or one adapter, with or without its optimizer's state.
        directory: a new or empty folder.
        base: the model that the adapters are for, as `mvc init` takes it.
        revision: of a hub id.
        sets: "KEY=VALUE" lines for mvc.toml, over what the states say.
        trust_remote_code: let this repo run the code that the base comes with.
        now: the present; no commit is later.
        progress: hears of the phases, and of what was found and left out.

    Raises:
        RepoError: `directory` holds something, or `path` is a model repo already.
        DataError: `path` holds no state.
        StateError: one of the states cannot be a commit; nothing was made.
        BaseModelError: the base cannot be found or read, or comes with code that is not allowed.
        ConfigError: a wrong key or value in `sets`, or one that the states contradict.
    """
    from mvc.engine import adopt, foreign_state

    new_repo.refuse_occupied(directory, _VERB)
    wished = config.parse(config.new_text(BaseSettings(model=base, revision=revision), sets))
    zone = config.zone(wished)
    sources = survey(path, now or datetime.now(zone), zone, progress)
    if any(directory.resolve().is_relative_to(s.folder.resolve()) for s in sources):
        raise RepoError(f"{directory} lies in what is imported", f"name another: `{_VERB}`")
    progress.stage(f"Looking at {len(sources)} states")
    states = [foreign_state.look(source.folder, path) for source in sources]
    progress.stage("Reading the base model")
    pinned = new_repo.pin_base(
        base, revision, trust_remote_code=trust_remote_code, verb="mvc import ..."
    )
    told = _told(states[-1])
    text = config.new_text(pinned.settings, [*told, *sets])
    settings = config.parse(text)
    try:
        config.check_line(settings, config.parse(config.new_text(pinned.settings, told)))
    except ConfigError as error:
        raise ConfigError(error.message, "leave that `--set` out: the adapters decide it") from None
    adoption = adopt.Adoption(settings, Path.cwd(), pinned.allowed, states[-1])
    for number, found in enumerate(states, 1):
        progress.stage(f"Checking state {number} of {len(states)}")
        adoption.check(found)
    for note in _remarks(states, settings.train.learning_rate):
        progress.note(note)
    with new_repo.new_folder(directory, pinned.allowed) as at:
        _commit(at, text, adoption, list(zip(sources, states, strict=True)), progress)
        progress.stop()
        return ImportResult(
            root=at.root,
            commits=tuple(reversed(history.log(at.root))),
            base=settings.base.model,
            digest=settings.base.digest,
            num_trainable_parameters=adoption.num_parameters,
        )


def survey(path: Path, now: datetime, zone: tzinfo, progress: Progress = SILENT) -> list[Source]:
    """The states in `path`, oldest first, each at a time not before the last one's.

    Raises:
        DataError: there is none.
        RepoError: it is a model repo.
    """
    if (path / layout.CONFIG).exists():
        raise RepoError(f"{path} is a model repo already", "`mvc clone` makes another of it")
    if not path.is_dir():
        raise DataError(f"{path} is no folder", f"name the folder to import: `{_VERB}`")
    found: list[Source] = []
    for each in _sources(path, zone, progress):
        # A copy may have lost its times, and another machine's clock be ahead of this one's.
        earliest = found[-1].when if found else each.when
        when = max(earliest, each.when if each.day else min(each.when, now))
        found.append(Source(each.folder, each.name, when, each.day))
    if not found:
        raise DataError(
            f"{path} holds no state: no current_model/ or snapshots/YYYY-MM-DD/, no checkpoint-N/, "
            f"no {_ADAPTER}",
            f"name the folder that holds one of them: `{_VERB}`",
        )
    return found


def _sources(path: Path, zone: tzinfo, progress: Progress) -> Iterator[Source]:
    from mvc.engine.checkpoint import by_number

    current, pins = path / layout.STATE, path / "snapshots"
    if current.is_dir() or pins.is_dir():
        for folder in sorted(pins.iterdir()) if pins.is_dir() else ():
            day = _day(folder)
            if day is None:
                progress.note(f"snapshots/{folder.name} is left out: its name is no day")
            else:
                when = _pinned_at(folder, day, zone)
                yield Source(folder, f"snapshot {folder.name}", when, folder.name)
        if current.is_dir():
            yield Source(current, layout.STATE, _written(current, zone))
        return
    checkpoints = [folder for _, folder in reversed(by_number(path))]
    for folder in checkpoints:
        yield Source(folder, folder.name, _written(folder, zone))
    if (path / _ADAPTER).exists():
        same = [c.name for c in checkpoints if _same(c / _ADAPTER, path / _ADAPTER)]
        if same:
            progress.note(f"the adapter beside the checkpoints is that of {same[-1]}")
        else:
            yield Source(path, path.resolve().name, _written(path, zone))


def _day(folder: Path) -> date | None:
    try:
        known = folder.is_dir() and _DAY.fullmatch(folder.name)
        return date.fromisoformat(folder.name) if known else None
    except ValueError:
        return None


def _pinned_at(folder: Path, day: date, zone: tzinfo) -> datetime:
    """When a snapshot was taken: when its adapter was written, if on that day, else at 03:00."""
    written = _written(folder, zone)
    return written if written.date() == day else datetime.combine(day, _NIGHT, zone)


def _written(folder: Path, zone: tzinfo) -> datetime:
    path = folder / _ADAPTER
    return datetime.fromtimestamp((path if path.is_file() else folder).stat().st_mtime, zone)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _told(last: Found) -> list[str]:
    """What the newest state says of mvc.toml, as `--set` would."""
    tables = {"lora": last.shape, "train": last.train}
    return [
        f"{table}.{key}={json.dumps(value)}"
        for table, values in tables.items()
        for key, value in values.items()
    ]


def _remarks(states: Sequence[Found], rate: float) -> Iterator[str]:
    """What the user should know of the import as a whole."""
    last = states[-1]
    for warning in last.warnings:
        yield f"{last.folder.name}: {warning}"
    if last.rested:
        yield "the last schedule had run out (rate 0): it is not gone on with"
    yield f"the rate is {rate:g} from here on; `train.learning_rate` in mvc.toml changes it"
    if any(dtype != "float32" for found in states for _, dtype in found.header.values()):
        yield "adapters of fewer bits were made float32, in which they go on"
    ignored = sorted({name for found in states for name in found.ignored})
    if ignored:
        more = f" and {len(ignored) - 6} more" if len(ignored) > 6 else ""
        yield f"left out, as no part of a state: {', '.join(ignored[:6])}{more}"


def _commit(
    at: Layout,
    text: str,
    adoption: Adoption,
    states: Sequence[tuple[Source, Found]],
    progress: Progress,
) -> None:
    """Write a commit for each state; nobody sees them before the last one moves the branch."""
    first, parent, made = new_repo.first_files(at, text), None, None
    earlier: Found | None = None
    written: list[FileDigest] = []
    content: set[FileDigest] = set()
    for number, (source, found) in enumerate(states, 1):
        progress.stage(f"Importing {source.name} ({number} of {len(states)})")
        folder = at.run / f"state-{number}"
        folder.mkdir(parents=True)
        commit, curve = _described(source, found, earlier)
        files = adoption.write(found, curve, commit.steps, folder)
        before, content = content, {each for each in files if each.path != _STATE_LOG}
        if content == before and source.day is None:
            progress.note(
                f"{source.name} is {states[number - 2][0].name}: nothing was trained since"
            )
            continue
        world = {"mvc": VERSION, "imported": source.name, "world_size": max(len(found.rng), 1)}
        meta = record.state_meta(world, files)
        state = objects.store_folder(at, folder, files, layout.STATE, meta)
        written += files
        made = workspace.NewCommit(
            message=messages.format_message(commit),
            files=first
            | {layout.METRICS: record.metrics(commit), layout.CURVE: record.curve_csv(curve)},
            pointers=(state,),
            parent=parent,
            branch="main",
            when=source.when,
            ends="run",
            unborn=True,
        )
        parent, earlier = workspace.write_commit(at, made), found
        if source.day:
            text = f"Snapshot of {source.day}, imported"
            pin(at, source.day, parent, text, source.when)
    objects.remember(at, written)
    assert made is not None
    with Lock(at, "mvc import"):
        workspace.promote(at, made, parent)


def _described(
    source: Source, found: Found, earlier: Found | None
) -> tuple[Commit, tuple[CurvePoint, ...]]:
    """The commit of a state, and its curve: what is new since the state before it."""
    new = found.log.since(earlier.log) if earlier else found.log
    lifetime, before = found.lifetime_step, earlier.lifetime_step if earlier else 0
    steps = lifetime - before if 0 < before <= lifetime else new.num_steps or lifetime
    curve = new.curve(found.log.num_steps, steps, lifetime or new.num_steps)
    losses, rates = [p.loss for p in curve], [p.learning_rate for p in curve]
    mean = sum(losses) / max(len(losses), 1)
    commit = Commit(
        commit="",
        parents=(),
        kind="import",
        batch=None,
        time=source.when,
        message=f"Import {source.name}",
        steps=steps,
        lifetime_step=lifetime,
        loss=Loss(losses[0], losses[-1], mean) if losses else None,
        learning_rate=Rate(rates[0], rates[-1]) if rates else None,
        curve=tuple(losses),
        warnings=found.warnings,
    )
    return commit, curve
