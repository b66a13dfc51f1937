"""Every renderer's text, held as snapshots; run with `--snapshot-update` after a wanted change."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType
from syrupy.assertion import SnapshotAssertion

from mvc.render import document, fsck, log, plan, plot, result, show, status
from mvc.render.marks import rolled_back
from mvc.types import Commit, Gate
from tests.render import samples as s


def text(parts: Iterable[RenderableType], width: int = 80, *, color: bool = False) -> str:
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        markup=False,
        highlight=False,
    )
    for part in parts:
        console.print(part)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_log(width: int, snapshot: SnapshotAssertion) -> None:
    gone = rolled_back(s.COMMITS)
    lines = log.log(s.COMMITS, now=s.NOW, width=width, lookup=s.BY_HASH.get, gone=gone)
    told = text(lines, width)
    assert max(map(len, told.splitlines())) <= width
    assert told == snapshot


def test_log_in_a_pipe_has_one_line_a_commit_and_keeps_names_whole() -> None:
    lines = list(log.log(s.COMMITS, now=s.NOW, width=None, lookup=s.BY_HASH.get))
    assert sum(not line.plain.startswith("      ") for line in lines) == len(s.COMMITS)
    whole = replace(s.ONE, data=replace(s.ONE.data, name="night-of-the-20th-of-november.jsonl"))
    (line,) = log.log([whole], now=s.NOW, width=None, lookup=s.BY_HASH.get)
    assert "night-of-the-20th-of-november.jsonl" in line.plain


@pytest.mark.parametrize("width", [80, 100, 190])
def test_log_tells_the_gate_where_a_commit_has_one(width: int, snapshot: SnapshotAssertion) -> None:
    three = replace(s.THREE, gate=Gate("loss", 2.34567, "a" * 32))
    commits = [s.ROLLBACK, three, s.TWO, s.INIT]
    told = text(log.log(commits, now=s.NOW, width=width, lookup=s.BY_HASH.get), width)
    assert max(map(len, told.splitlines())) <= width
    assert told == snapshot


def test_show_and_the_result_of_a_batch_tell_the_gate() -> None:
    gated = replace(s.TWO, gate=Gate("perplexity", 10.125, "a" * 32))
    shown = show.show(replace(s.DETAIL, commit=gated), now=s.NOW, width=80, lookup=s.BY_HASH.get)
    assert re.search(r"gate +perplexity 10\.125 on the held-out file", text(shown))
    assert ", gate 10.125" in text(result.batch(replace(s.RESULT, commit=gated)))
    assert document.commit(gated)["gate"] == {"metric": "perplexity", "value": 10.125}
    assert document.commit(s.TWO)["gate"] is None


def test_log_dims_what_was_rolled_back_and_says_it_without_colors() -> None:
    commits, gone = [s.ROLLBACK, s.THREE, s.TWO], rolled_back([s.ROLLBACK, s.THREE, s.TWO])
    for width in (None, 80, 160):
        lines = list(log.log(commits, now=s.NOW, width=width, lookup=s.BY_HASH.get, gone=gone))
        told = [line.plain for line in lines]
        start = next(i for i, plain in enumerate(told) if plain.lstrip().startswith("@3"))
        stop = next(i for i, plain in enumerate(told) if plain.lstrip().startswith("@2"))
        assert [i for i, plain in enumerate(told) if "(rolled back)" in plain] == [start]
        whole = [(0, len(line), "dim") in line.spans for line in lines]
        assert whole == [start <= i < stop for i in range(len(lines))]
        assert stop - start == (3 if width == 80 else 2)  # its cells and its warning


def test_log_colors_the_change_by_its_sign() -> None:
    down = text(log.log([s.ONE], now=s.NOW, width=80, lookup=s.BY_HASH.get), color=True)
    worse = replace(s.ONE, loss=replace(s.ONE.loss, last=4.0))
    up = text(log.log([worse], now=s.NOW, width=80, lookup=s.BY_HASH.get), color=True)
    assert "\x1b[32m-0.812" in down
    assert "\x1b[31m+0.786" in up


def test_a_hostile_name_does_not_reach_the_terminal() -> None:
    hostile = replace(s.ONE, data=replace(s.ONE.data, name="a\x1b]0;owned\x07[red]b"))
    told = text(log.log([hostile], now=s.NOW, width=80, lookup=s.BY_HASH.get))
    assert "\x1b" not in told
    assert "\x07" not in told
    assert "[red]b" in told


def test_a_commit_of_another_hand_is_told_by_its_subject() -> None:
    other = replace(s.INIT, kind="other", batch=None, message="Raise the rate\n\nbecause")
    (line,) = log.log([other], now=s.NOW, width=None, lookup=s.BY_HASH.get)
    assert line.plain.endswith("Raise the rate")


def test_csv_is_exact_and_oldest_first() -> None:
    rows = list(log.csv(s.CURVES))
    assert rows[0] == "commit,batch,step,lifetime_step,loss,learning_rate,grad_norm"
    first = rows[1].split(",")
    assert first[:4] == [s.ONE.commit, "1", "1", "88"]
    assert float(first[4]) == s.ONE.curve[0]
    assert first[6] == ""
    assert len(rows) == 1 + sum(len(points) for _, points in s.CURVES)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("show", show.show(s.DETAIL, now=s.NOW, width=80, lookup=s.BY_HASH.get)),
        ("status", status.status(s.STATUS, now=s.NOW)),
        ("busy", status.status(s.BUSY, now=s.NOW)),
        ("batch", result.batch(s.RESULT)),
        ("already", result.batch(s.ALREADY)),
        ("checkout", result.arrival(s.ARRIVAL, "Checked out")),
        ("rollback", result.arrival(s.BACK, "Rolled back to")),
        ("snapshot", result.snapshot(s.PIN)),
        ("snapshots", result.snapshots([s.PIN], now=s.NOW)),
        ("fsck", fsck.fsck(s.FSCK)),
        ("broken", fsck.fsck(s.BROKEN)),
        ("plan", plan.plan(s.PLAN)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answers(name: str, parts: Iterable[RenderableType], snapshot: SnapshotAssertion) -> None:
    assert text(parts) == snapshot(name=name)


def drawn(commits: list[Commit], width: int = 80) -> str:
    """The plot of a line, newest commit first."""
    find = {commit.commit: commit for commit in commits}.get
    return plot.plot(
        [(commit, s.points(commit)) for commit in reversed(commits) if commit.kind == "batch"],
        width=width,
        lookup=find,
        rollbacks=[commit for commit in commits if commit.kind == "rollback"],
        gone=rolled_back(commits),
    ).plain


def steady(number: int, first: float, last: float, **changes: object) -> Commit:
    """A batch whose every step is logged."""
    step = {"lifetime_step": 32 * number, "steps": 32}
    return s.batch(number, first, last, **{**step, **changes})


BACK = [
    steady(5, 1.9, 1.7, batch=4, lifetime_step=96),
    replace(s.ROLLBACK, lifetime_step=64),
    steady(3, 2.9, 2.6),
    steady(2, 2.4, 2.1),
    steady(1, 3.2, 2.4, snapshots=("2026-11-20",)),
]


@pytest.mark.parametrize("width", [80, 160])
def test_plot_with_a_rollback(width: int, snapshot: SnapshotAssertion) -> None:
    told = drawn(BACK, width)
    assert told == snapshot
    rows = told.splitlines()
    assert len(rows) <= 22
    assert max(map(len, rows)) <= width
    assert rows[0].split("  ")[-1].strip() == "@3 (rolled back)"
    assert rows[1].strip() == "rolled back to @2"
    assert rows[2].split() == ["@1", "snapshot", "2026-11-20", "@2", "@4"]
    assert "·" in told
    assert "┃" in told
    assert "(dots: rolled back)" in rows[-1]


def test_plot_without_a_rollback_has_neither_dots_nor_words_for_it() -> None:
    told = drawn(BACK[3:])
    assert "rolled back" not in told
    assert "·" not in told
    assert "┃" not in told


def test_plot_of_a_line_that_was_rolled_back_to_its_start() -> None:
    back = replace(s.ROLLBACK, lifetime_step=0, rollback_to=s.sha(0))
    rows = drawn([back, *BACK[2:], s.INIT]).splitlines()
    assert "@1 snapshot 2026-11-20 (rolled back)" in rows[0]
    assert "rolled back to init" in rows[1]
    assert rows[4].index("┃") == rows[4].index("┤" if "┤" in rows[4] else "│") + 1


def test_plot_marks_no_rollback_that_was_itself_rolled_back() -> None:
    again = replace(s.ROLLBACK, commit=s.sha(6), parents=(s.sha(5),), rollback_to=s.sha(1))
    told = drawn([replace(again, lifetime_step=32), *BACK])
    assert "rolled back to @1" in told
    assert "rolled back to @2" not in told
    assert "@3 @4 (rolled back)" in told  # both end at the same step


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(("start", "stop"), [(1, 12), (1, 36), (88, 714), (1, 250_000), (3, 4)])
def test_plot_counts_in_whole_steps(start: int, stop: int, width: int) -> None:
    points = [replace(s.points(s.ONE)[0], lifetime_step=step) for step in (start, stop)]
    told = plot.plot([(s.ONE, points)], width=width, lookup=s.BY_HASH.get).plain
    ticks = [int(tick.replace(",", "")) for tick in told.splitlines()[-2].split()]
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= width // 12 + 1
    assert start <= ticks[0] < ticks[-1] <= stop
    assert len({after - before for before, after in itertools.pairwise(ticks)}) == 1


@pytest.mark.parametrize("width", [80, 160])
def test_plot_names_stand_over_their_lines(width: int) -> None:
    rows = drawn(BACK, width).splitlines()
    at = rows[2].index("@2")
    assert "┃" in rows[4][at : at + 3]
    at = rows[1].index("rolled back to @2")
    assert rows[4][at + 8] == "┃"


def test_plot_names_batches_and_snapshots() -> None:
    told = drawn(s.COMMITS)
    assert "@1" in told
    assert "@2 snapshot 2026-11-20" in told
    assert "║" in drawn(BACK)
    assert "┊" in told


def test_plot_of_many_batches_keeps_the_curve_in_sight() -> None:
    commits = [s.batch(i, 3.0, 2.5, snapshots=()) for i in range(200, 0, -1)]
    told = drawn([replace(each, parents=(s.sha(each.batch - 1),)) for each in commits])
    rows = told.splitlines()
    names = [int(label[1:]) for label in rows[0].split()]
    assert names == sorted(names)
    assert rows[1].count("┬") == len(names) < 20


def test_plot_marks_a_snapshot_without_room_for_its_name() -> None:
    days = [s.batch(i, 3.0, 2.5, snapshots=(f"2026-11-{i:02}",)) for i in range(20, 0, -1)]
    told = drawn(days).splitlines()
    assert told[0].count("snapshot") < 5
    assert told[1].count("┬") + told[1].count("╥") == 20


def test_plot_without_a_curve_says_so() -> None:
    assert "mvc train" in plot.plot([(s.INIT, ())], width=80, lookup=s.BY_HASH.get).plain


@pytest.mark.parametrize("width", [20, 80])
def test_plot_of_one_step(width: int, capfd: pytest.CaptureFixture[str]) -> None:
    one = [(s.ONE, s.points(s.ONE)[:1])]
    told = plot.plot(one, width=width, lookup=s.BY_HASH.get).plain
    assert "@1" in told
    assert "88" in told.split()
    assert capfd.readouterr() == ("", "")
