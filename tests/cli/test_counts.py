"""What each command costs, in counts that no busy machine can upset (issue 6).

Two lines of 3 and 12 batches, states of 6 MB without torch. A bound that is missed by one is a
change of cost: make it smaller again, or say in the commit why it must be so. What a batch costs
is in `tests/ops/test_train_counts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mvc.store import config
from tests.counting import Counts, count
from tests.ops import lines

SHORT, LONG = 3, 12
STATE_BYTES = 6_000_000
FIXED = 1_500_000
"""Bytes that a command may read or write whatever the state's size is: git, DVC's database, the
screen. An adapter alone is more."""


@dataclass(frozen=True)
class Cost:
    """`git` processes, exactly; `opened`: how often the most opened object is; `synced`: how often
    the most synced folder is; `databases`: connections to DVC's; `hashed`, `read` and `written`:
    multiples of the state's bytes (MD5 and SHA-256 count one each); `modules` at most; `lists`:
    opened for each commit of the history.
    """

    git: int
    modules: int
    opened: int = 0
    synced: int = 0
    databases: int = 0
    hashed: int = 0
    read: int = 0
    written: int = 0
    lists: int = 0


COSTS = {
    "--help": Cost(git=0, modules=140),
    "status": Cost(git=10, modules=360),
    "log": Cost(git=2, modules=310),
    "log --json": Cost(git=2, modules=225),
    "ops": Cost(git=2, modules=310),
    "snapshots": Cost(git=1, modules=330),
    "show": Cost(git=9, modules=330),
    "snapshot": Cost(git=10, modules=400),
    "checkout @1": Cost(git=25, modules=600, opened=2, synced=1, databases=5, hashed=2, read=1),
    "checkout main": Cost(git=29, modules=600, opened=2, synced=1, databases=5, hashed=2, read=1),
    "fetch": Cost(git=15, modules=560),
    # Read once more before it is sent: what is damaged is not.
    "push": Cost(git=24, modules=600, opened=2, hashed=1, read=2, written=1),
    "pull": Cost(git=40, modules=600, opened=1, synced=2, databases=5, hashed=2, read=1, written=1),
    "clone ../hub.git .": Cost(
        git=52, modules=600, opened=1, synced=2, databases=5, hashed=2, read=1, written=1
    ),
    "rollback @1": Cost(git=38, modules=600, opened=2, synced=1, databases=5, hashed=2, read=1),
    "gc": Cost(git=30, modules=560, lists=2),
    "gc --apply": Cost(git=36, modules=560, lists=2),
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Counts]]:
    """Each command's counts, on the short line and on the long one, whose last batch is unsent."""
    found: dict[str, list[Counts]] = {command: [] for command in COSTS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "ADAPTER", STATE_BYTES // 3)
        for number in (SHORT, LONG):
            folder = tmp_path_factory.mktemp("counted")
            at = lines.shared_line(folder, number - 1)
            lines.commit(at, number)
            roots = {"pull": lines.cloned(folder, "b").root, "clone": folder / "c"}
            roots["clone"].mkdir()
            for command in COSTS:
                verb, *_ = command.split()
                if command == "gc":
                    rules = ("keep.last=1", "keep.undo=0")
                    at.config.write_text(config.set_values(at.config.read_text(), rules))
                found[command].append(count(roots.get(verb, at.root), *command.split()))
            assert any(at.trash.rglob("*")), "gc --apply had nothing to do"
            for root in roots.values():
                assert lines.content(root / "current_model") == lines.state_of(number, folder)
            assert lines.whole(_held(folder), folder / "hub.git") >= number
    return found


def _held(folder: Path) -> dict[str, bytes]:
    base = folder / "store" / "files" / "md5"
    return {
        "".join(path.relative_to(base).parts): path.read_bytes()
        for path in base.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("command", COSTS)
def test_what_it_costs(counted: dict[str, list[Counts]], command: str) -> None:
    cost, found = COSTS[command], counted[command][0]
    assert len(found.git) == cost.git, found.git
    assert found.others == ()
    assert found.most_opened == cost.opened, found.opened
    assert found.most_synced == cost.synced, found.synced
    assert found.databases == cost.databases
    assert round(found.hashed / STATE_BYTES) == cost.hashed
    assert 0 <= found.read - cost.read * STATE_BYTES <= FIXED
    assert 0 <= found.written - cost.written * STATE_BYTES <= FIXED
    assert len(found.modules) <= cost.modules
    if cost.modules < 370:
        assert found.modules.isdisjoint({"torch", "transformers", "dvc", "git", "plotext"})


@pytest.mark.parametrize("command", COSTS)
def test_a_longer_history_costs_the_same(counted: dict[str, list[Counts]], command: str) -> None:
    short, long = counted[command]
    assert short.git == long.git
    assert short.others == long.others
    more = sum(long.opened.values()) - sum(short.opened.values())
    assert more == COSTS[command].lists * (LONG - SHORT)
    assert short.databases == long.databases
    assert abs(short.hashed - long.hashed) < 10_000
    assert abs(short.read - long.read) < FIXED / 10
    assert abs(short.written - long.written) < FIXED / 10
    assert len(short.modules) == len(long.modules)
