"""Any order of train, snapshot, checkout and rollback agrees with a slow model of a history.

The model remembers, for every commit, its parent and the bytes of its state when it was HEAD. At
the end every commit is checked out and compared, byte for byte. The trainings are real.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mvc.errors import RepoError
from mvc.ops import checkout, init, log, rollback, snapshot, status, train
from mvc.store.layout import Layout
from tests.ops.conftest import SETS, state_bytes, write_batch

START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
FILES = 4
STEPS = 2


def git(at: Layout, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=at.root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@dataclass
class Known:
    """A commit as the model remembers it; `source` is the commit whose state a rollback took."""

    parent: str | None
    kind: str
    data: int | None
    lifetime_step: int
    state: dict[str, bytes]
    source: str | None = None


class History(RuleBasedStateMachine):
    """A model repo beside a model of it."""

    template: Layout
    files: list[Path]
    folder: Path
    runs = 0

    @initialize()
    def begin(self) -> None:
        type(self).runs += 1
        root = self.folder / f"run-{self.runs}"
        subprocess.run(["cp", "-a", self.template.root, root], check=True)
        self.at = Layout(root)
        self.now = START
        self.head = git(self.at, "rev-parse", "HEAD")
        self.branch: str | None = "main"
        self.branches = {"main": self.head}
        self.days: dict[str, str] = {}
        self.known = {self.head: Known(None, "init", None, 0, state_bytes(self.at))}

    def line(self, commit: str | None) -> Iterator[str]:
        """A commit and its ancestors, newest first."""
        while commit:
            yield commit
            commit = self.known[commit].parent

    def trained(self) -> dict[int, str]:
        """The data that HEAD's state has learnt: what was rolled back is not in it."""
        found: dict[int, str] = {}
        commit: str | None = self.head
        while commit:
            known = self.known[commit]
            if known.data is not None:
                found.setdefault(known.data, commit)
            commit = known.source or known.parent
        return found

    def add(self, commit: str, known: Known) -> None:
        assert commit not in self.known
        assert git(self.at, "rev-parse", f"{commit}^@") == known.parent
        self.known[commit] = known
        self.head = commit
        assert self.branch
        self.branches[self.branch] = commit

    @rule(number=st.integers(0, FILES - 1), again=st.sampled_from([False, False, True]))
    def train(self, number: int, again: bool = False) -> None:
        self.now += timedelta(hours=1)
        before = self.trained().get(number)
        (result,) = train.train(self.at, [self.files[number]], again=again, now=self.now)
        assert result.already == (before is not None and not again)
        if result.already:
            assert result.commit.commit == before
            return
        if self.branch is None:
            assert result.branch is not None
            assert result.branch not in self.branches, "a branch of the user was moved"
            self.branch = result.branch
        assert result.commit.steps == STEPS
        state = state_bytes(self.at)
        name = "adapter_model.safetensors"
        assert state[name] != self.known[self.head].state[name]
        step = self.known[self.head].lifetime_step + STEPS
        self.add(result.commit.commit, Known(self.head, "batch", number, step, state))

    @rule(days=st.integers(0, 2))
    def snapshot(self, days: int = 0) -> None:
        self.now += timedelta(days=days)
        day = self.now.date().isoformat()
        if self.days.get(day, self.head) != self.head:
            with pytest.raises(RepoError, match="never overwritten"):
                snapshot.snapshot(self.at, now=self.now)
            return
        assert snapshot.snapshot(self.at, now=self.now).commit.commit == self.head
        self.days[day] = self.head

    @rule(data=st.data())
    def draw_a_checkout(self, data: st.DataObject) -> None:
        places = [*self.branches, *self.branches, *self.days, *self.known]
        self.checkout(data.draw(st.sampled_from(places), "revision"))

    def checkout(self, rev: str) -> None:
        self.branch = rev if rev in self.branches else None
        self.head = self.branches.get(rev) or self.days.get(rev) or rev
        result = checkout.checkout(self.at, rev, now=self.now)
        assert (result.commit.commit, result.branch) == (self.head, self.branch)

    @precondition(lambda self: self.branch)
    @rule(data=st.data())
    def draw_a_rollback(self, data: st.DataObject) -> None:
        self.rollback(data.draw(st.sampled_from(list(self.known)), "target"))

    def rollback(self, target: str) -> None:
        known = self.known[target]
        if self.branch is None or known.state == self.known[self.head].state:
            with pytest.raises(RepoError):
                rollback.rollback(self.at, target, now=self.now)
            return
        result = rollback.rollback(self.at, target, now=self.now)
        new = Known(self.head, "rollback", None, known.lifetime_step, known.state, target)
        self.add(result.commit.commit, new)

    @invariant()
    def the_repo_is_what_the_model_says(self) -> None:
        assert git(self.at, "rev-parse", "HEAD") == self.head
        assert git(self.at, "branch", "--show-current") == (self.branch or "")
        assert state_bytes(self.at) == self.known[self.head].state
        assert git(self.at, "status", "--porcelain") == ""
        assert status.status(self.at).state == "clean"
        assert [c.commit for c in log.log(self.at)] == list(self.line(self.head))

    @invariant()
    def numbers_and_steps_add_up(self) -> None:
        commits = log.log(self.at)
        numbers = [c.batch for c in commits if c.kind == "batch"]
        assert len(set(numbers)) == len(numbers)
        assert numbers == sorted(numbers, key=lambda n: -(n or 0))
        for commit in commits:
            known = self.known[commit.commit]
            assert (commit.kind, commit.lifetime_step) == (known.kind, known.lifetime_step)

    def teardown(self) -> None:
        if not hasattr(self, "at"):
            return
        for name, commit in self.branches.items():
            assert git(self.at, "rev-parse", f"refs/heads/{name}") == commit
        sizes = {"batch": set(), "others": set()}  # type: dict[str, set[int]]
        for commit, known in self.known.items():
            checkout.checkout(self.at, commit, now=self.now)
            assert state_bytes(self.at) == known.state
            tracked = git(self.at, "ls-tree", "-r", "--name-only", commit).split()
            sizes["batch" if known.kind == "batch" else "others"].add(len(tracked))
            holder = known.source or commit
            number = self.known[holder].data
            if number is None and self.known[holder].kind == "init":
                assert not self.at.batch.exists()
            elif number is not None:
                (data,) = self.at.batch.iterdir()
                assert data.read_bytes() == self.files[number].read_bytes()
        assert len(sizes["batch"]) <= 1
        assert max(sizes["others"]) <= max(sizes["batch"], default=max(sizes["others"]))
        shutil.rmtree(self.at.root)


@pytest.fixture(scope="module")
def history(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> type[History]:
    folder = tmp_path_factory.mktemp("properties")
    made = init.init(folder / "model", str(tiny_base), sets=[*SETS, "snapshot.zone=UTC"], now=START)
    files = [write_batch(folder / f"day-{i}.jsonl", 4 * i, 2 * STEPS) for i in range(FILES)]
    here = {"template": Layout(made.root), "files": files, "folder": folder}
    return type("Here", (History,), here)


@pytest.mark.slow
def test_any_order_of_operations_agrees_with_a_slow_model(history: type[History]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        history, settings=settings(max_examples=6, stateful_step_count=12, deadline=None)
    )


def test_a_winding_walk_agrees_with_a_slow_model(history: type[History]) -> None:
    """One order with all that matters in it, for every run."""
    walk = history()
    walk.begin()
    start = walk.head

    def check() -> str:
        walk.the_repo_is_what_the_model_says()
        walk.numbers_and_steps_add_up()
        return walk.head

    walk.train(0)
    first = check()
    walk.snapshot()
    walk.train(1)
    second = check()
    walk.snapshot()  # the day is taken
    walk.train(0)  # the line has it already
    walk.rollback(first)
    check()
    walk.train(1)  # what was rolled back is trained anew
    assert check() != second
    walk.checkout(START.date().isoformat())
    walk.rollback(start)  # on no branch
    check()
    walk.train(2)
    assert check() == walk.branches["from-2026-11-20"]
    walk.rollback(start)
    check()
    walk.train(2)
    check()
    walk.checkout("main")
    walk.train(1, again=True)
    check()
    walk.teardown()


def test_training_does_not_depend_on_what_happened_between(tiny_base: Path, tmp_path: Path) -> None:
    """Snapshots, checkouts and a batch that is rolled back leave no trace in the next batch."""
    paths = [write_batch(tmp_path / f"day-{i}.jsonl", 4 * i, 4) for i in range(3)]
    straight = Layout(init.init(tmp_path / "straight", str(tiny_base), sets=SETS).root)
    winding = Layout(init.init(tmp_path / "winding", str(tiny_base), sets=SETS).root)
    list(train.train(straight, paths[:2]))
    list(train.train(winding, paths[:1]))
    snapshot.snapshot(winding, now=START)
    list(train.train(winding, paths[2:]))
    checkout.checkout(winding, "@0")
    checkout.checkout(winding, "main")
    rollback.rollback(winding, "2026-11-20")
    list(train.train(winding, paths[1:2]))
    assert state_bytes(winding) == state_bytes(straight)


def test_a_commit_has_the_same_size_after_one_batch_and_after_six(
    tiny_base: Path, tmp_path: Path
) -> None:
    at = Layout(init.init(tmp_path / "model", str(tiny_base), sets=SETS).root)
    paths = [write_batch(tmp_path / f"day-{i}.jsonl", 4 * i, 4) for i in range(6)]
    trees, states = [], []
    for path in paths:
        list(train.train(at, [path]))
        rows = [row.split() for row in git(at, "ls-tree", "-r", "-l", "HEAD").splitlines()]
        trees.append({name: int(size) for *_, size, name in rows})
        states.append({name: len(content) for name, content in state_bytes(at).items()})
    assert all(tree.keys() == trees[0].keys() for tree in trees)
    assert all(state.keys() == states[0].keys() for state in states)
    for name, size in trees[0].items():
        assert abs(trees[-1][name] - size) < 64, f"{name} grows"  # digits of numbers
    assert abs(sum(states[-1].values()) - sum(states[0].values())) < 64
    assert json.loads(git(at, "show", "HEAD:metrics.json"))["batch"] == 6
