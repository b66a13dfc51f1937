"""Whatever is done in whatever order, every state that the rules protect comes back to the byte.

Train, branch, snapshot, pin, gc (also killed), restore, undo, push, with tiny states. The model
knows what each commit's state is and what nothing may take: heads, days, pins, what no remote
has, what can be undone, and the newest of the line.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from datetime import timedelta
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

from mvc.errors import ObjectMissing, RepoError, StoreError
from mvc.ops import checkout, fsck, gc, log, pin, push, snapshot, undo
from mvc.store import history, objects, tracked
from mvc.store.layout import STATE, Layout
from tests.killing import run_and_kill
from tests.ops import lines
from tests.ops.keeping import collect
from tests.ops.lines import START, content, git, state_of

UNDO = 2


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
        self.pins: set[str] = set()
        self.sent = set(self.known)
        self.head, self.branches = line[0].commit, {"main": line[0].commit}
        self.branch: str | None = "main"
        self.days: dict[str, str] = {}
        self.trail = [self.head]

    # --- what a user does ---

    @rule()
    def train(self) -> None:
        if self.branch is None:
            self.branch = f"b{self.seed}"
            git(self.at.root, "switch", "-q", "-c", self.branch)
        self.seed += 1
        try:
            self.head = lines.commit(self.at, self.seed)
        except ObjectMissing:
            raise AssertionError("a kept state is not there") from None
        self.known[self.head] = self.seed
        self.branches[self.branch] = self.head
        self.trail.append(self.head)

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
        self.trail.append(commit)
        if self.partial(commit):
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

    @rule()
    def push(self) -> None:
        if self.branch is not None:
            push.push(self.at)
            reached = git(self.at.root, "rev-list", "--remotes").split()
            self.sent |= set(reached) & self.known.keys()
            self.sent |= {c for day in self.days.values() for c in self.before(day)}

    def before(self, commit: str) -> set[str]:
        return set(git(self.at.root, "rev-list", commit).split()) & self.known.keys()

    # --- what takes ---

    @rule(last=st.integers(1, 3), thin=st.integers(0, 3), far=st.booleans(), kill=st.integers(0, 3))
    def take(self, last: int = 1, thin: int = 0, far: bool = False, kill: int = 0) -> None:
        remotes = ["origin"] if far else []
        keep = {"last": last, "undo": UNDO}

        def act() -> object:
            return collect(self.at, keep, thin={"last": thin}, now=self.now, remotes=remotes)

        if kill == 1:
            run_and_kill(act, random.Random(self.seed).randrange(5, 120))
            assert not fsck.fsck(self.at).findings
        act()
        assert not collect(
            self.at, keep, thin={"last": thin}, now=self.now, remotes=remotes
        ).plan.num_objects, "a second gc found what the first should have"

    @rule()
    def restore(self) -> None:
        try:
            gc.restore(self.at)
        except RepoError:
            assert not list(self.at.trash.glob("*/manifest.json"))

    @rule()
    def undone(self) -> None:
        try:
            undo.undo(self.at)
        except (RepoError, StoreError):
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

    # --- what must hold ---

    def protected(self) -> set[str]:
        found = {*self.branches.values(), *self.days.values(), *self.pins, self.head}
        alive = set(git(self.at.root, "rev-list", "--branches", "--tags", "HEAD").split())
        return found | {c for c in self.known if c not in self.sent and c in alive}

    @invariant()
    def all_that_is_protected_is_whole(self) -> None:
        if not hasattr(self, "at"):
            return
        cache = objects.cache_folder(self.at)
        for commit in self.protected():
            (pointer, *_) = tracked.pointers_of(self.at.root, commit)
            assert pointer.path == STATE
            here = {
                path: objects.object_path(cache, md5).read_bytes()
                for path, md5, _ in objects.entries(self.at, pointer)
            }
            assert here == state_of(self.known[commit], self.folder)

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
        machine, settings=settings(max_examples=6, stateful_step_count=12, deadline=None)
    )


def test_a_winding_walk_keeps_what_is_protected(machine: type[Keeping]) -> None:
    """One order with all that matters in it, for every run."""
    walk = machine()
    walk.begin()

    def check() -> None:
        walk.all_that_is_protected_is_whole()
        walk.the_repo_is_sound()

    for act in (
        *(walk.train, walk.train, walk.snap, walk.train, walk.push, walk.take, walk.train),
        *(walk.pinned, walk.train, walk.push, lambda: walk.take(1, 2, True, 1), walk.restore),
        *(lambda: walk.goes("main"), walk.undone, walk.train, walk.take, walk.undone, walk.take),
    ):
        act()
        check()
    first = next(iter(walk.known))
    walk.goes(first)
    check()
    walk.train()
    check()
    walk.take(1, 0, True)
    check()
    walk.teardown()
