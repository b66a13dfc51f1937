"""Whatever is done in whatever order, every state that the rules protect comes back to the byte.

Train, branch, roll back, snapshot, pin, gc, restore, undo, push, with tiny states, also killed in
the middle. The model knows what each commit's state is and what nothing may take: heads, days,
pins, what no remote has, the newest of each line as the rules count them, and what the newest
operations can go back to.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Set
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mvc.errors import ObjectMissing, RepoError
from mvc.keeping import GcResult
from mvc.ops import checkout, fsck, gc, log, ops, pin, push, rollback, snapshot, undo
from mvc.store import history, objects, oplog, retention, tracked, workspace
from mvc.store.layout import STATE, Layout
from mvc.store.lock import Lock
from tests.killing import run_and_kill
from tests.ops import lines
from tests.ops.keeping import collect
from tests.ops.lines import START, content, git, state_of

UNDO = 3
FINAL = {"remote", "restored", "deleted"}
"""What an operation says that cannot be taken back."""
MOMENTS = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
KILLS = st.integers(-400, 120)
"""The moment at which an act is killed; below 1 it is not."""


class Keeping(RuleBasedStateMachine):
    """A shared model repo beside a model of what must be in it."""

    template: Path
    folder: Path
    runs = 0

    @initialize()
    def begin(self) -> None:
        type(self).runs += 1
        root = self.folder / "run"
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", self.template, root], check=True)
        self.at, self.now, self.seed = Layout(root / "a"), START + timedelta(days=1), 10
        line = log.log(self.at, "main")
        self.known = {c.commit: c.lifetime_step // 4 for c in line if c.kind != "other"}
        self.known[line[0].commit] = 2  # the commit that added the remote
        self.same = {line[0].commit}  # as its parent
        self.back = {c.commit: next(iter(c.parents), "") for c in line}
        self.given_up: set[str] = set()
        self.pins: set[str] = set()
        self.sent = set(self.known)
        self.head, self.branches = line[0].commit, {"main": line[0].commit}
        self.branch: str | None = "main"
        self.days: dict[str, str] = {}

    def killed(self, act: Callable[[], object], kill: int) -> None:
        """Let `act` die at its moment, and the next command find what it left."""
        if kill > 0:
            run_and_kill(act, kill)
            with Lock(self.at, "next"):
                workspace.recover(self.at)

    def came(self, state: int, back: str) -> None:
        """A commit came onto the branch."""
        assert self.branch is not None
        self.head = git(self.at.root, "rev-parse", "HEAD")
        self.known[self.head], self.back[self.head] = state, back
        self.branches[self.branch] = self.head

    # --- what a user does ---

    @rule(kill=KILLS)
    def train(self, kill: int = 0) -> None:
        if self.branch is None:
            self.branched()
        self.seed += 1
        act, before = partial(lines.commit, self.at, self.seed), self.head
        self.killed(act, kill)
        if git(self.at.root, "rev-parse", "HEAD") == before:
            act()
        self.came(self.seed, before)

    @rule()
    def branched(self) -> None:
        self.branch = f"b{self.seed}-{len(self.branches)}"
        git(self.at.root, "switch", "-q", "-c", self.branch)
        self.branches[self.branch] = self.head

    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        self.rolls_back(data.draw(st.sampled_from([*self.known]), "revision"))

    def rolls_back(self, commit: str) -> None:
        if self.branch is None or self.known[commit] == self.known[self.head]:
            return
        self.seed += 1
        try:
            rollback.rollback(self.at, commit, now=START + timedelta(hours=self.seed))
        except ObjectMissing:
            assert commit not in self.protected(), "what is protected was not there"
            return
        self.came(self.known[commit], commit)

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.goes(data.draw(st.sampled_from([*self.branches, *self.known]), "revision"))

    def goes(self, rev: str) -> None:
        commit = self.branches.get(rev, rev)
        try:
            checkout.checkout(self.at, rev)
        except ObjectMissing:
            assert commit not in self.protected(), "what is protected was not there"
            return
        if not (self.at.state / "optimizer.pt").exists() and self.known[commit]:
            assert commit not in self.protected()
        self.branch, self.head = (rev if rev in self.branches else None), commit
        if self.partial(commit):
            self.given_up.add(commit)
            self.goes("main")  # the model's states are whole

    def partial(self, commit: str) -> bool:
        return content(self.at.state) != state_of(self.known[commit], self.folder)

    @rule(days=st.integers(0, 2))
    def snap(self, days: int = 1) -> None:
        self.now += timedelta(days=days)
        day = self.now.date().isoformat()
        if self.days.get(day, self.head) != self.head:
            return
        snapshot.snapshot(self.at, now=self.now)
        self.days[day] = self.head

    @rule()
    def pinned(self) -> None:
        pin.pin(self.at, "HEAD", now=self.now)
        self.pins.add(self.head)

    @rule(kill=KILLS)
    def push(self, kill: int = 0) -> None:
        if self.branch is not None:
            self.killed(lambda: push.push(self.at), kill)
            push.push(self.at)
            reached = git(self.at.root, "rev-list", "--remotes").split()
            self.sent |= set(reached) & self.known.keys()
            self.sent |= {c for day in self.days.values() for c in self.before(day)}

    def before(self, commit: str) -> set[str]:
        return set(git(self.at.root, "rev-list", commit).split()) & self.known.keys()

    # --- what takes ---

    @rule(last=st.integers(1, 4), thin=st.integers(0, 5), far=st.booleans(), kill=KILLS)
    def take(self, last: int = 1, thin: int = 0, far: bool = False, kill: int = 0) -> None:
        remotes = ["origin"] if far else []
        keep = {"last": last, "undo": UNDO}

        def act() -> GcResult:
            return collect(self.at, keep, thin={"last": thin}, now=self.now, remotes=remotes)

        if kill > 0:
            run_and_kill(act, kill)
            assert not fsck.fsck(self.at).findings
        had = {c: self.stored(c).keys() for c in self.known}
        act()
        self.the_rules_kept(last, thin, had)
        assert not act().plan.num_objects, "a second gc found what the first should have"

    def the_rules_kept(self, last: int, thin: int, had: dict[str, Set[str]]) -> None:
        """The newest of each line, by the model's own count, have what they had."""
        tips = git(
            self.at.root, "for-each-ref", "--format=%(objectname)", "refs/heads", "refs/remotes"
        )
        found = [self.line(head) for head in {*tips.split(), self.head}]
        for line in found:
            if any(line[0] in other[1:] for other in found):
                continue  # what has learnt more counts for both
            own = [commit for commit in line if commit not in self.same]
            for number, commit in enumerate(own[: max(last, thin)]):
                kept = self.stored(commit).keys()
                lost = had[commit] - kept - (set() if number < last else MOMENTS)
                assert not lost, f"number {number + 1} of its line lost {lost}"

    def line(self, head: str) -> list[str]:
        found = [head]
        while self.back[found[-1]]:
            found.append(self.back[found[-1]])
        return found

    @rule()
    def restore(self) -> None:
        try:
            gc.restore(self.at)
        except RepoError:
            assert not list(self.at.trash.glob("*/manifest.json"))

    @rule(nth=st.integers(0, UNDO - 1), kill=KILLS)
    def undone(self, nth: int = 0, kill: int = 0) -> None:
        """Any of the newest operations: what it goes back to is there, whatever gc did."""
        chosen = ops.ops(self.at)[nth].operation
        act = partial(undo.undo, self.at, chosen.id)
        with contextlib.suppress(AssertionError):  # it is refused, and says so below
            self.killed(act, kill)
        if oplog.find(self.at).extra.get("undoes") != chosen.id:
            try:
                act()
            except RepoError as error:
                final = FINAL & chosen.extra.keys() or chosen.commit[0] is None
                assert final or re.search(
                    "moved since|which is then not there|its trash .* was emptied", error.message
                ), error
                return
        branch, head = tracked.head(self.at.root)
        assert head is not None
        told = git(
            self.at.root, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads"
        )
        self.branches = dict(line.split(" ") for line in told.splitlines())
        self.branch, self.head = branch, head
        self.days = {s.day: s.commit.commit for s in history.snapshots(self.at.root)}
        self.pins = {each.commit.commit for each in pin.pins(self.at)}
        if self.partial(head):
            assert head in self.given_up, "an undo led to a state that gc may not have taken"
            self.goes("main")

    # --- what must hold ---

    def protected(self) -> set[str]:
        found = {*self.branches.values(), *self.days.values(), *self.pins, self.head}
        alive = set(git(self.at.root, "rev-list", "--branches", "--tags", "HEAD").split())
        return found | {c for c in self.known if c not in self.sent and c in alive}

    @invariant()
    def all_that_is_protected_is_whole(self) -> None:
        if not hasattr(self, "at"):
            return
        for commit in self.protected():
            assert self.stored(commit) == state_of(self.known[commit], self.folder)

    def stored(self, commit: str) -> dict[str, bytes]:
        """What is in the cache of a commit's state."""
        cache = objects.cache_folder(self.at)
        (pointer, *_) = tracked.pointers_of(self.at.root, commit)
        assert pointer.path == STATE
        if not objects.object_path(cache, pointer.md5).exists():
            return {}
        found = {
            path: objects.object_path(cache, md5)
            for path, md5, _ in objects.entries(self.at, pointer)
        }
        return {path: where.read_bytes() for path, where in found.items() if where.exists()}

    @invariant()
    def the_repo_is_sound(self) -> None:
        if hasattr(self, "at"):
            assert content(self.at.state) == state_of(self.known[self.head], self.folder)
            assert not fsck.fsck(self.at).findings

    def teardown(self) -> None:
        if not hasattr(self, "at"):
            return
        assert not fsck.fsck(self.at, remote="origin").findings
        for commit in self.protected():
            checkout.checkout(self.at, commit)
            assert content(self.at.state) == state_of(self.known[commit], self.folder)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> type[Keeping]:
    folder = tmp_path_factory.mktemp("keeping")
    place = folder / "run"
    place.mkdir()
    lines.shared_line(place, 2)
    subprocess.run(["cp", "-a", place, folder / "template"], check=True)
    return type("Here", (Keeping,), {"template": folder / "template", "folder": folder})


@pytest.mark.slow
def test_any_order_keeps_what_is_protected(machine: type[Keeping]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine, settings=settings(max_examples=5, stateful_step_count=12, deadline=None)
    )


def walk_of(machine: type[Keeping], *acts: Callable[[Keeping], object]) -> None:
    walk = machine()
    walk.begin()
    for act in acts:
        act(walk)
        walk.all_that_is_protected_is_whole()
        walk.the_repo_is_sound()
    walk.teardown()


def test_a_winding_walk_keeps_what_is_protected(machine: type[Keeping]) -> None:
    """One order with all that matters in it, for every run."""
    walk_of(
        machine,
        *(Keeping.train, lambda w: w.train(60), Keeping.snap, Keeping.train, Keeping.push),
        *(Keeping.take, Keeping.train, Keeping.pinned, Keeping.train, lambda w: w.push(30)),
        *(lambda w: w.take(1, 2, True, 40), Keeping.restore, lambda w: w.goes("main")),
        *(Keeping.undone, Keeping.train, Keeping.take, Keeping.undone, Keeping.take),
        *(lambda w: w.goes(next(iter(w.known))), Keeping.train, lambda w: w.take(1, 0, True)),
    )


def test_a_walk_to_which_only_the_rules_and_the_log_of_operations_matter(
    machine: type[Keeping],
) -> None:
    """All is pushed, so that nothing else keeps it: see the two tests below."""
    walk_of(machine, *RULED, *REMEMBERED)


RULED: tuple[Callable[[Keeping], object], ...] = (
    *(Keeping.train, Keeping.train, Keeping.train, Keeping.push, Keeping.branched, Keeping.train),
    *(lambda w: w.rolls_back(w.line(w.head)[3]), Keeping.push, lambda w: w.goes("main")),
    lambda w: w.take(2, 4, True),
)
REMEMBERED: tuple[Callable[[Keeping], object], ...] = (
    *(lambda w: w.goes(w.line(w.branches["main"])[1]), lambda w: w.goes("main")),
    *(lambda w: w.take(1, 0, True), lambda w: w.undone(2)),
)


@pytest.mark.parametrize(
    ("what", "acts", "told"),
    [
        ((retention, "kept"), RULED, "of its line lost"),
        ((oplog, "protected"), (*RULED, *REMEMBERED), "deleted by `mvc gc`|gave up the state"),
    ],
)
def test_the_walk_fails_where_a_protection_is_missing(
    machine: type[Keeping],
    what: tuple[object, str],
    acts: tuple[Callable[[Keeping], object], ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(*what, lambda *_, **__: {})
    with pytest.raises((AssertionError, ObjectMissing), match=told):
        walk_of(machine, *acts)
