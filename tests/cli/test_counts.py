"""What each command costs, in counts that no busy machine can upset (issue 6).

Two lines of 3 and 12 batches, states of 6 MB without torch. A bound that is missed by one is a
change of cost: make it smaller again, or say in the commit why it must be so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.counting import Counts, count
from tests.ops import lines

LONG = 12
STATE_BYTES = 6_000_000
FIXED = 1_500_000
"""Bytes that a command may write whatever the state's size is: git, DVC's database, the screen."""


@dataclass(frozen=True)
class Cost:
    """`git` processes, exactly; `read`: how often the most read object is opened; `hashed` and
    `written`: multiples of the state's bytes (MD5 and SHA-256 count one each); `modules` at most.
    """

    git: int
    modules: int
    read: int = 0
    hashed: int = 0
    written: int = 0


COSTS = {
    "--help": Cost(git=0, modules=140),
    "status": Cost(git=10, modules=360),
    "log": Cost(git=2, modules=310),
    "log --json": Cost(git=2, modules=225),
    "ops": Cost(git=2, modules=310),
    "snapshots": Cost(git=1, modules=330),
    "show": Cost(git=9, modules=330),
    "snapshot": Cost(git=10, modules=400),
    "checkout @1": Cost(git=26, modules=900, read=2, hashed=2),
    "checkout main": Cost(git=30, modules=900, read=2, hashed=2),
    "fetch": Cost(git=15, modules=600),
    "push": Cost(git=24, modules=880, read=3, hashed=1, written=1),
    "rollback @1": Cost(git=38, modules=900, read=2, hashed=2),
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Counts]]:
    """Each command's counts, on the short line and on the long one, whose last batch is unsent."""
    found: dict[str, list[Counts]] = {command: [] for command in COSTS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "ADAPTER", STATE_BYTES // 3)
        for number in (3, LONG):
            folder = tmp_path_factory.mktemp("counted")
            at = lines.shared_line(folder, number - 1)
            lines.commit(at, number)
            for command in COSTS:
                found[command].append(count(at.root, *command.split()))
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
    assert found.most_opened == cost.read, found.opened
    assert round(found.hashed / STATE_BYTES) == cost.hashed
    assert found.written <= cost.written * STATE_BYTES + FIXED
    assert len(found.modules) <= cost.modules
    if cost.modules < 370:
        assert found.modules.isdisjoint({"torch", "transformers", "dvc", "git", "plotext"})


@pytest.mark.parametrize("command", COSTS)
def test_a_longer_history_costs_the_same(counted: dict[str, list[Counts]], command: str) -> None:
    short, long = counted[command]
    assert short.git == long.git
    assert short.others == long.others
    assert sum(short.opened.values()) == sum(long.opened.values())
    assert abs(short.hashed - long.hashed) < 10_000
    assert len(short.modules) == len(long.modules)
