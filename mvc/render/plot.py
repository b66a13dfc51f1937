"""Curves of the loss: over lifetime steps across commits, and over the last hours of `mvc watch`.

Owns the only use of plotext. `mvc log --plot` shows the first, as follows.

The live line is one bright curve; what a rollback undid is dim dots, for it covers the same steps.
Names stand in rows above the picture, each over its step.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.text import Text

from mvc.render.marks import Lookup, brought_back, name
from mvc.types import Commit, CurvePoint
from mvc.watching import LossAt

_Curve = tuple[Commit, Sequence[CurvePoint]]
_PIN = "snapshot "
_GAP = 1


def plot(
    curves: Iterable[_Curve],
    *,
    width: int,
    lookup: Lookup,
    rollbacks: Iterable[Commit] = (),
    gone: Collection[str] = (),
    height: int = 22,
) -> Text:
    """The curves of a line in one picture, the lowest lifetime step on the left.

    A dotted line marks the end of a batch, a double one a snapshot, a heavy one the step that a
    rollback went back to; their names stand above where there is room. Each batch is its own
    stroke: a jump between two is seen as a gap.

    Args:
        curves: Batches with their loss curves, oldest first; those without points are left out.
        width: Columns of the picture.
        lookup: Finds the commit that a rollback brought back.
        rollbacks: The line's rollbacks.
        gone: The hashes of all that a later rollback undid (see `marks.rolled_back`); a rollback
            among them is not marked.
        height: Rows of the picture, names included.
    """
    finite = ((commit, [p for p in points if math.isfinite(p.loss)]) for commit, points in curves)
    drawn = [(commit, points) for commit, points in finite if points]
    if not drawn:
        return Text("No curve yet: `mvc train FILE` makes one.")
    returns = {
        commit.lifetime_step: f"rolled back to {brought_back(commit, lookup)}"
        for commit in rollbacks
        if commit.commit not in gone
    }
    steps = [*returns, *(point.lifetime_step for _, points in drawn for point in points)]
    start, stop = min(steps), max(steps)
    if start == stop:  # a picture of one step still needs a width
        start, stop = start - 1, stop + 1
    ends = _ends(curve for curve in drawn if curve[0].commit not in gone)
    past = _ends(curve for curve in drawn if curve[0].commit in gone)
    undone = {step: f"{names} (rolled back)" for step, names in past.items()}
    figure = _figure(drawn, gone, width, height - 1 - bool(returns) - bool(undone))
    figure.ruler("x", "both").lim(start, stop)
    ticks = _ticks(start, stop, width // 12)
    figure.ruler("x", "lower").ticks(ticks, [f"{tick:,}" for tick in ticks])
    figure.ruler("x", "upper").ticks([])
    figure.label("loss over lifetime steps" + (" (dots: rolled back)" if undone else ""))
    # Only the picture knows how wide its numbers are, and so over which column a step is.
    frame = next(row for row in _built(figure).plain.splitlines() if "┌" in row)
    left, right = frame.index("┌") + 1, frame.rindex("┐") - 1
    scale = (right - left) / (stop - start)

    def row(names: Mapping[int, str], style: str) -> tuple[Text, set[int]]:
        columns = {step: left + round((step - start) * scale) for step in names}
        return _row(names, columns, width, style)

    above, named = row(ends, "bold")
    # Without room for every name, a line for every batch would cover the curve.
    marked = {end: names for end, names in ends.items() if end in named or _PIN in names}
    _mark(figure, marked, returns)
    rows = [above, _built(figure)]
    if returns:
        rows.insert(0, row(returns, "magenta")[0])
    if undone:
        rows.insert(0, row(undone, "dim")[0])
    return Text("\n").join(rows)


def recent(points: Sequence[LossAt], *, width: int, height: int) -> Text:
    """The loss over the time of day, for the screen of `mvc watch`.

    Args:
        points: the curve, oldest first, in the zone that the times are told in; at least one.
        width: Columns of the picture.
        height: Rows of the picture.
    """
    begin = points[0].time
    times = [(point.time - begin).total_seconds() for point in points]
    span = max(times[-1], 1.0)
    figure = _empty(width, height)
    figure.draw(
        figure.signal(times, [point.loss for point in points], marker=_stroke()).lines(True)
    )
    figure.ruler("x", "both").lim(0, span)
    number = max(width // 16, 2)
    ticks = [span * i / (number - 1) for i in range(number)]
    form = "%H:%M" if span >= 60 * number else "%H:%M:%S"
    names = [(begin + timedelta(seconds=tick)).strftime(form) for tick in ticks]
    figure.ruler("x", "lower").ticks(ticks, names)
    figure.ruler("x", "upper").ticks([])
    return _built(figure)


def _empty(width: int, height: int) -> Any:
    import plotext

    plotext.terminal.limit(False, False)  # our own width, where stdout is no terminal too
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    return figure


def _stroke() -> Any:
    import plotext

    return plotext.marker("braille", plotext.pixel(foreground="cyan"))


def _figure(drawn: Sequence[_Curve], gone: Collection[str], width: int, height: int) -> Any:
    """The curves in a new figure: dots first, so that the live line lies over them."""
    import plotext

    figure, line = _empty(width, height), _stroke()
    dots = plotext.marker("·", plotext.pixel(style="dim"))
    for commit, points in sorted(drawn, key=lambda curve: curve[0].commit not in gone):
        live = commit.commit not in gone
        steps, losses = [p.lifetime_step for p in points], [p.loss for p in points]
        figure.draw(figure.signal(steps, losses, marker=line if live else dots).lines(live))
    return figure


def _mark(figure: Any, ends: Mapping[int, str], returns: Collection[int]) -> None:
    """Vertical lines at ends of batches and where rollbacks went back to."""
    import plotext

    for step in {*ends, *returns}:
        if step in returns:
            style, pixel = "heavy", plotext.pixel(foreground="magenta")
        elif _PIN in ends[step]:
            style, pixel = "double", plotext.pixel(foreground="orange")
        else:
            style, pixel = "dotted", plotext.pixel(style="dim")
        figure.line(step, "vertical", style=style, pixel=pixel)


def _built(figure: Any) -> Text:
    text = Text.from_ansi(figure.build().string())
    text.rstrip()
    return text


def _ends(drawn: Iterable[_Curve]) -> dict[int, str]:
    """The names of batches and their snapshots, by the step that each ends at."""
    found: dict[int, list[str]] = {}
    for commit, points in drawn:
        names = found.setdefault(points[-1].lifetime_step, [])
        names += [name(commit), *(_PIN + day for day in commit.snapshots)]
    return {step: " ".join(names) for step, names in found.items()}


def _row(
    names: Mapping[int, str], columns: Mapping[int, int], width: int, style: str
) -> tuple[Text, set[int]]:
    """One row of names, each over its column, and the steps whose name had room.

    Snapshots are served first, then the newest.
    """
    taken: dict[int, tuple[int, int]] = {}
    for step in sorted(names, key=lambda step: (_PIN in names[step], step), reverse=True):
        size = len(names[step])
        begin = max(0, min(columns[step] - size // 2, width - size))
        end = begin + size
        if size <= width and all(end + _GAP <= b or e + _GAP <= begin for b, e in taken.values()):
            taken[step] = (begin, end)
    row = Text()
    for step, (begin, _) in sorted(taken.items(), key=lambda item: item[1]):
        row.append(" " * (begin - len(row))).append(names[step], style)
    return row, set(taken)


def _ticks(start: int, stop: int, most: int) -> list[int]:
    """Round whole steps between `start` and `stop`."""
    least = max((stop - start) / max(most, 2), 1)
    power = 10 ** math.floor(math.log10(least))
    size = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least)
    return list(range(-(-start // size) * size, stop + 1, size)) or [start]
