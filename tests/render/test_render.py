"""Every renderer's text, held as snapshots; run with `--snapshot-update` after a wanted change."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType
from syrupy.assertion import SnapshotAssertion

from mvc.render import fsck, log, plan, plot, result, show, status
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
    lines = log.log(s.COMMITS, now=s.NOW, width=width, lookup=s.BY_HASH.get)
    told = text(lines, width)
    assert max(map(len, told.splitlines())) <= width
    assert told == snapshot


def test_log_in_a_pipe_has_one_line_a_commit_and_keeps_names_whole() -> None:
    lines = list(log.log(s.COMMITS, now=s.NOW, width=None, lookup=s.BY_HASH.get))
    assert sum(not line.plain.startswith("      ") for line in lines) == len(s.COMMITS)
    whole = replace(s.ONE, data=replace(s.ONE.data, name="night-of-the-20th-of-november.jsonl"))
    (line,) = log.log([whole], now=s.NOW, width=None, lookup=s.BY_HASH.get)
    assert "night-of-the-20th-of-november.jsonl" in line.plain


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


def test_plot_names_batches_and_snapshots() -> None:
    told = text([plot.plot(s.CURVES, width=80)])
    assert "@1" in told
    assert "@2 snapshot 2026-11-20" in told
    assert "║" in told
    assert "┊" in told


def test_plot_of_many_batches_keeps_the_curve_in_sight() -> None:
    commits = [s.batch(i, 3.0, 2.5, snapshots=()) for i in range(1, 201)]
    told = plot.plot([(commit, s.points(commit)) for commit in commits], width=80).plain
    assert told.splitlines()[5].count("┊") < 20


def test_plot_without_a_curve_says_so() -> None:
    assert "mvc train" in plot.plot([(s.INIT, ())], width=80).plain


def test_plot_of_one_step() -> None:
    told = plot.plot([(s.ONE, s.points(s.ONE)[:1])], width=80).plain
    assert "@1" in told
