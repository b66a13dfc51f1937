"""Which commits keep what of their state, and why: the rules of mvc.toml and what stands above.

Owns the reasons. Above the rules stand the heads of branches, here and on remotes, snapshots,
tags, pins, what `mvc undo` can take back, the batch in progress, and what no remote has. Deletes
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from mvc.keeping import State
from mvc.settings import KeepRules, Settings
from mvc.store import collected, config, git, oplog, refs, remotes, retention, tips
from mvc.store.layout import SNAPSHOT_PREFIX, STATE, Layout
from mvc.store.survey import Folder, Survey
from mvc.types import Commit

PIN_PREFIX = "pin/"
_HEADS, _TAGS, _REMOTES, _OURS = "refs/heads/", "refs/tags/", "refs/remotes/", "refs/mvc/"
_LEFT = "reflog"
_RANK: dict[State, int] = {"absent": 0, "thin": 1, "whole": 2}


@dataclass
class Keeping:
    """For each commit what stays of it, and the reasons of whatever keeps the most."""

    state: dict[str, State] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def keep(self, commit: str, state: State, reason: str) -> None:
        """`commit` keeps at least `state`."""
        known = self.state.get(commit, "absent")
        if _RANK[state] > _RANK[known]:
            self.state[commit], self.reasons[commit] = state, []
        if _RANK[state] >= _RANK[known] and reason not in self.reasons[commit]:
            self.reasons[commit].append(reason)


def remembered(at: Layout, settings: Settings, now: datetime) -> dict[str, str]:
    """Commits that no ref may name any more, each with what remembers it.

    Those are what `mvc undo` goes back to, and what a ref left of late (`git reset`, a branch that
    was deleted): as long as the trash would keep it.
    """
    since = now - timedelta(days=settings.keep.trash)
    left = dict.fromkeys(tips.recent(at, since), _LEFT)
    return left | oplog.protected(at, settings.keep.undo, since)


def any_rule(settings: Settings) -> bool:
    """Whether [keep] or [thin] has a rule; without one nothing is ever deleted."""
    return retention.any_rule(settings.keep) or retention.any_rule(settings.thin)


def keeping(
    at: Layout,
    survey: Survey,
    settings: Settings,
    now: datetime,
    *,
    unpushed: bool = False,
    asked: Sequence[str] = (),
) -> Keeping:
    """What the rules and what stands above them keep.

    Args:
        at: The model repo.
        survey: What there is.
        settings: mvc.toml, perhaps with the rules of the command line.
        now: The present.
        unpushed: What no remote has is under the rules as well.
        asked: Remotes from which it goes by name: what they gave up may go here too.

    Raises:
        ConfigError: a rule is no rule.
    """
    found = Keeping()
    for ref, commit in survey.refs.items():
        for state, reason in _reasons(ref, settings):
            found.keep(commit, state, reason)
    for commit in in_progress(at):
        found.keep(commit, "whole", "batch in progress")
    for commit, reason in remembered(at, settings, now).items():
        if reason != _LEFT or commit in survey.loose:
            found.keep(commit, "whole", reason)
    for commit in _beside(survey):
        found.keep(commit, "whole", "beside a damaged commit")
    if not unpushed and any(each.data_url and each.git_url for each in remotes.listing(at)):
        there = _on_remotes(at, asked)
        for commit in survey.folders:
            if commit not in there:
                found.keep(commit, "whole", "not pushed")
    zone = config.zone(settings)
    newest = max((each.time for each in survey.commits.values() if each.time < now), default=None)
    rules: tuple[tuple[State, KeepRules], ...] = (("whole", settings.keep), ("thin", settings.thin))
    for own, line in _lines(survey):
        moments = [(each.commit, each.time) for each in line]
        for state, each in rules:
            kept = retention.kept(moments, each, zone, now, newest=None if own else newest)
            for commit, reasons in kept.items():
                for reason in reasons:
                    found.keep(commit, state, reason if state == "whole" else f"thin {reason}")
    found.state = {c: state for c, state in found.state.items() if c in survey.folders}
    return found


def _on_remotes(at: Layout, asked: Sequence[str]) -> set[str]:
    """The commits that some remote has, as last seen, and did not give up."""
    found: set[str] = set()
    for each in remotes.listing(at):
        if each.data_url and each.git_url:
            is_asked = each.name in asked
            found |= set(refs.reached(at.root, each.name)) if is_asked else promised(at, each.name)
    return found


def promised(at: Layout, remote: str) -> set[str]:
    """The commits whose state a remote has, as far as its refs and its record tell.

    None where git cannot read a ref of it: what it has is not known then, and is no reason to
    delete anything here.
    """
    try:
        return set(refs.reached(at.root, remote)) - collected.read(at, remote).keys()
    except git.GitFailed:
        return set()


def _reasons(ref: str, settings: Settings) -> Iterator[tuple[State, str]]:
    """What a ref keeps of its commit."""
    name = ref.partition("/tag/")[2] if ref.startswith(_OURS) else ref.removeprefix(_TAGS)
    day = ref.partition(f"/{SNAPSHOT_PREFIX}")[2]
    if ref == "HEAD" or ref.startswith(tips.WORK_TREE):
        yield "whole", ref
    elif ref.startswith(_HEADS):
        yield "whole", f"branch {ref.removeprefix(_HEADS)}"
    elif ref.startswith(_REMOTES):
        yield "whole", f"branch {ref.removeprefix(_REMOTES)}"
    elif day and ref.startswith((_TAGS + SNAPSHOT_PREFIX, _OURS)):
        yield ("whole" if settings.keep.snapshots else "thin"), f"snapshot {day}"
    elif name.startswith(PIN_PREFIX):
        yield "whole", "pinned"
    elif ref.startswith((_TAGS, _OURS)) and name:
        matches = any(fnmatchcase(name, pattern) for pattern in settings.keep.tags)
        yield ("whole" if matches else "thin"), f"tag {name}"
    # Any other ref (refs/stash, what `mvc undo` remembers) only makes its commits known.


def in_progress(at: Layout) -> set[str]:
    """The commits on which a batch in progress goes on."""
    found = set()
    for folder in (at.run, at.flight):
        try:
            said = json.loads((folder / "run.json").read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(said, dict) and said.get("parent"):
            found.add(str(said["parent"]))
    return found


def _beside(survey: Survey) -> set[str]:
    """The commits that may share objects with one that cannot be read.

    Those are its parents and children, and the ends of a rollback: no other has the same state.
    Whatever else of the commit itself can be read is kept as well.
    """
    bad = {each.commit for each in survey.findings if each.commit}
    found = set(bad)
    for commit in survey.commits.values() if bad else ():
        links = {*commit.parents, *([commit.rollback_to] if commit.rollback_to else [])}
        if commit.commit in bad:
            found |= links
        elif links & bad:
            found.add(commit.commit)
    data = {c: each.data.md5 for c, each in survey.commits.items() if each.data}
    same = {data[commit] for commit in bad & data.keys()}
    return found | {commit for commit, md5 in data.items() if md5 in same}


def _lines(survey: Survey) -> list[tuple[bool, list[Commit]]]:
    """The lines that the rules are applied to, each newest first.

    A line is what the head of a branch has learnt; a head that another's line holds has none of
    its own. What no line holds (it was rolled back, or undone) is one more, that is not its own.
    """
    heads = {
        commit
        for ref, commit in survey.refs.items()
        if ref == "HEAD" or ref.startswith((_HEADS, _REMOTES))
    }
    lines = {
        head: [each for each in _learnt(survey, head) if _has_own_state(survey, each)]
        for head in sorted(heads)
    }
    held = {head: {each.commit for each in _learnt(survey, head)} for head in lines}
    inside = {
        head
        for head in lines
        for other, commits in held.items()
        if other != head and head in commits
    }
    found = [(True, line) for head, line in lines.items() if head not in inside]
    known = {each.commit for _, line in found for each in line}
    rest = [c for name, c in survey.commits.items() if name not in known]
    rest = [each for each in rest if _has_own_state(survey, each)]
    return [*found, (False, rest)]


def _has_own_state(survey: Survey, commit: Commit) -> bool:
    """Whether the rules count a commit; one by hand with its parent's state is none to them."""
    folders = survey.folders.get(commit.commit)
    if folders is None:
        return False
    before = survey.folders.get(next(iter(commit.parents), ""))
    return commit.kind != "other" or before is None or _state(folders) != _state(before)


def _state(folders: Iterable[Folder]) -> list[str]:
    return [each.listing for each in folders if each.name == STATE]


def _learnt(survey: Survey, head: str) -> Iterable[Commit]:
    """`history.effective_line`, in memory."""
    at, seen = survey.commits.get(head), set[str]()
    while at is not None and at.commit not in seen:
        seen.add(at.commit)
        yield at
        at = survey.commits.get(at.rollback_to or next(iter(at.parents), ""))
