"""`mvc du`: where the bytes are, by commit, day and part, and what the policy would free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from mvc.keeping import CommitBytes, DayBytes, DuResult, Part, RemoteBytes
from mvc.ops import gc, keep
from mvc.ops.fetch import shared
from mvc.settings import Settings
from mvc.store import config, transfer, trash
from mvc.store.layout import Layout
from mvc.store.survey import Survey, part
from mvc.types import SILENT, Progress


def du(
    at: Layout,
    *,
    remotes: Sequence[str] = (),
    settings: Settings | None = None,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> DuResult:
    """Count the bytes of the cache and of the trash; of remotes, what our commits name there.

    Raises:
        RemoteError: there is no such remote, or it cannot be reached.
        ConfigError: a rule of mvc.toml is no rule.
    """
    settings = settings or config.load(at)
    zone = config.zone(settings)
    now = now or datetime.now(zone)
    work = gc.plan(at, (), settings, now, unpushed=False, progress=progress, ask=False)
    found, here = work.survey, work.survey.here
    by_commit = {sha: _objects(found, sha) for sha in found.folders}
    times = Counter(md5 for md5s in by_commit.values() for md5 in md5s)
    parts = _parts(found)
    days: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    for sha, md5s in reversed(by_commit.items()):  # oldest first: who brought an object owns it
        day = found.commits[sha].time.astimezone(zone).date().isoformat()
        count, size = days.get(day, (0, 0))
        days[day] = (count + 1, size + sum(here[md5] for md5 in md5s - seen))
        seen |= md5s
    commits = tuple(
        CommitBytes(
            commit=found.commits[sha],
            state=found.state(sha, here),
            num_bytes=sum(here[md5] for md5 in md5s),
            num_unique_bytes=sum(here[md5] for md5 in md5s if times[md5] == 1),
        )
        for sha, md5s in by_commit.items()
    )
    names = {md5 for fs in found.folders.values() for f in fs for md5 in f.objects("whole")}
    far = []
    for name in dict.fromkeys(remotes):
        progress.stage(f"Asking {name}")
        there = transfer.sizes(at, shared(at, name).name, names)
        sizes = [size for size in there.values() if size is not None]
        known = len(sizes) == len(there)
        far.append(RemoteBytes(name, len(there), sum(sizes) if known else None))
    progress.stop()
    return DuResult(
        num_objects=len(here),
        num_bytes=sum(here.values()),
        parts={each: sum(here[md5] for md5 in md5s) for each, md5s in parts.items()},
        num_shared_bytes=sum(here[md5] for md5, count in times.items() if count > 1),
        num_stray_bytes=work.plan.num_stray_bytes,
        num_free_bytes=work.plan.num_bytes if keep.any_rule(settings) else None,
        trash=tuple(trash.listing(at)),
        commits=commits,
        days=tuple(DayBytes(day, *days[day]) for day in sorted(days, reverse=True)),
        remotes=tuple(far),
    )


def _objects(found: Survey, commit: str) -> set[str]:
    """A commit's objects that are here."""
    return {
        md5
        for folder in found.folders[commit]
        for md5 in folder.objects("whole")
        if md5 in found.here
    }


def _parts(found: Survey) -> dict[Part, set[str]]:
    """The objects that are here, each in one part: the first that names it."""
    parts: dict[Part, set[str]] = {
        "adapter": set(),
        "moments": set(),
        "data": set(),
        "small": set(),
    }
    seen: set[str] = set()
    for folders in found.folders.values():
        for folder in folders:
            for path, md5 in (*(folder.files or ()), ("", folder.listing)):
                if md5 in found.here and md5 not in seen:
                    seen.add(md5)
                    parts[part(folder.name, path) if path else "small"].add(md5)
    return parts
