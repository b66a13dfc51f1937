"""`mvc log --plot`: the loss over lifetime steps, across commits. Owns the only use of plotext."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.text import Text

from mvc.render.marks import name
from mvc.types import Commit, CurvePoint

_PIN = "snapshot "


def plot(
    curves: Sequence[tuple[Commit, Sequence[CurvePoint]]], *, width: int, height: int = 22
) -> Text:
    """The curves of a line in one picture, oldest on the left.

    A dotted line marks the end of each batch, a double one a snapshot; their names stand above
    where there is room. Each batch is its own stroke: a jump between two is seen as a gap.

    Args:
        curves: Commits with their loss curves, oldest first; those without points are left out.
        width: Columns of the picture.
        height: Rows of the picture.
    """
    finite = (
        (commit, [point for point in points if math.isfinite(point.loss)])
        for commit, points in curves
    )
    drawn = [(commit, points) for commit, points in finite if points]
    if not drawn:
        return Text("No curve yet: `mvc train FILE` makes one.")
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(width, height)
    ends: dict[int, list[str]] = {}
    for commit, points in drawn:
        steps, losses = [p.lifetime_step for p in points], [p.loss for p in points]
        figure.draw(figure.signal(steps, losses, marker="braille").lines(True))
        labels = ends.setdefault(steps[-1], [])
        labels += [label for label in (name(commit), *_days(commit)) if label not in labels]
    start, stop = drawn[0][1][0].lifetime_step, max(ends)
    named = _spaced(ends, (width - 8) / max(stop - start, 1))
    for end, labels in ends.items():
        # Without room for every name, a line for every batch would cover the curve.
        if end in named or _is_pinned(labels):
            figure.line(end, "vertical", style="double" if _is_pinned(labels) else "dotted")
    figure.ruler("x", "both").lim(start, stop)
    figure.ruler("x", "upper").ticks(list(named), list(named.values()))
    figure.label("loss over lifetime steps")
    return Text.from_ansi(figure.build().string())


def _days(commit: Commit) -> list[str]:
    return [_PIN + day for day in commit.snapshots]


def _spaced(ends: Mapping[int, Sequence[str]], scale: float) -> dict[int, str]:
    """The ends that have room for a label: snapshots are served first, then the newest."""
    shown: dict[int, str] = {}
    for end in sorted(ends, key=lambda end: (_is_pinned(ends[end]), end), reverse=True):
        label = " ".join(ends[end])
        room = all(
            abs(end - other) * scale > (len(label) + len(text)) / 2 + 1
            for other, text in shown.items()
        )
        if room:
            shown[end] = label
    return dict(sorted(shown.items()))


def _is_pinned(labels: Sequence[str]) -> bool:
    return any(label.startswith(_PIN) for label in labels)
