"""`mvc log`: the loss history, newest first.

One commit is two lines in a narrow terminal, one line in a wide terminal or a pipe, and a line
more for everything that must not be. Owns the layout; what is worth a warning is `marks.py`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.marks import Lookup, brought_back, marks, name
from mvc.render.sparkline import sparkline
from mvc.types import Commit, CurvePoint

if TYPE_CHECKING:
    from mvc.keeping import State

# What the cells beside the name take of a line, the gaps between them included.
_WIDE_TAKES = 121
_NARROW_TAKES = 60
_GATE_TAKES, _SPARKS_TAKE = 13, 10
_GAP = "  "
_LEFT: dict[State | None, str] = {"thin": "(adapter only)", "absent": "(state gone)"}
_ALL_WHOLE: Mapping[str, State] = {}


class _Shape(NamedTuple):
    """What the cells of a line have room for; `blocks` are the sparkline's, 0 for none."""

    wide: bool
    room: int
    blocks: int
    gated: bool


def log(
    commits: Sequence[Commit],
    *,
    now: datetime,
    width: int | None,
    lookup: Lookup,
    gone: Collection[str] = (),
    left: Mapping[str, State] = _ALL_WHOLE,
) -> Iterator[Text]:
    """The history as lines, ready to print.

    Args:
        commits: Newest first.
        now: The present, in the zone that times are shown in.
        width: Columns of the terminal; None where there is none: one commit is then one line.
        lookup: Finds a commit that `commits` may lack (the parent of the oldest, the target of a
            rollback).
        gone: The hashes of commits that a later rollback undid (see `marks.rolled_back`): they
            are dim, and said to be rolled back.
        left: What `mvc gc` left of those commits whose state it thinned or took.

    Yields:
        One Text a line.
    """
    names = max((len(_title(commit)) for commit in commits), default=0)
    ends = [_end(commit, gone, left.get(commit.commit)) for commit in commits]
    labels = max(map(len, ends), default=0)
    shape = _shape(width, names, labels, gated=any(commit.gate for commit in commits))
    for commit, end in zip(commits, ends, strict=True):
        for line in _lines(commit, end, now, lookup, shape):
            if commit.commit in gone:
                line.stylize("dim")
            yield line


def refs(commit: Commit) -> Text:
    """Branches and snapshots that point at `commit`, as `git log --decorate` would order them."""
    parts = [("HEAD", "bold cyan")] if commit.is_head else []
    parts += [(fmt.plain(branch), "bold green") for branch in commit.branches]
    parts += [(f"snapshot {fmt.plain(day)}", "bold yellow") for day in commit.snapshots]
    text = Text()
    for i, part in enumerate(parts):
        text.append(", " if i else "").append(*part)
    return text


def label(commit: Commit) -> Text:
    """A commit in a sentence: `@42 3f9a1c2b0d`, or the hash alone where it has no number."""
    known = (name(commit) + " ", "bold") if name(commit) != commit.short else ""
    return Text.assemble(known, (commit.short, "yellow"))


def subject(commit: Commit) -> str:
    """The first line of the commit's message."""
    return fmt.plain(commit.message.partition("\n")[0])


def words(commit: Commit) -> str:
    """What the user said with `--message`: the lines below the subject; empty without them."""
    lines = commit.message.partition("\n")[2].strip().splitlines()
    return "\n".join(fmt.plain(line) for line in lines)


def trend(first: float, last: float) -> tuple[str, str]:
    """The change of a loss and the style that says whether it is good news."""
    style = "green" if last < first else "red" if last > first else "dim"
    return fmt.change(first, last), style


def csv(curves: Iterable[tuple[Commit, Sequence[CurvePoint]]]) -> Iterator[str]:
    """`mvc log --csv`: a header, then one row a step, oldest first, at full precision."""
    yield "commit,batch,step,lifetime_step,loss,learning_rate,grad_norm"
    for commit, points in curves:
        batch = "" if commit.batch is None else commit.batch
        for point in points:
            norm = "" if point.grad_norm is None else repr(point.grad_norm)
            yield (
                f"{commit.commit},{batch},{point.step},{point.lifetime_step},"
                f"{point.loss!r},{point.learning_rate!r},{norm}"
            )


def _shape(width: int | None, names: int, labels: int, *, gated: bool) -> _Shape:
    """The cells for names and labels of at most that many characters."""
    more, columns = _GATE_TAKES * gated, width or 1000
    wide = width is None or columns - _WIDE_TAKES - labels - more >= min(names, 14)
    taken = (_WIDE_TAKES + labels if wide else _NARROW_TAKES) + more
    blocks = 12 if wide else 8
    if gated and columns - taken < 14:  # the held-out file says more than the curve's shape
        taken, blocks = taken - _SPARKS_TAKE, 0
    return _Shape(wide, min(names, 40, max(14, columns - taken)), blocks, gated)


def _lines(
    commit: Commit, end: Text, now: datetime, lookup: Lookup, shape: _Shape
) -> Iterator[Text]:
    head, body = _head(commit, now), _body(commit, lookup, shape)
    if shape.wide:
        yield _join([*head, *body, end])
    else:
        yield _join([*head, end])
        yield _join([Text(" " * 4), *body])
    if commit.kind == "batch" and words(commit):
        yield Text(" " * 6 + words(commit).splitlines()[0], "italic dim")
    for mark in (*commit.warnings, *marks(commit, lookup)):
        yield Text.assemble(" " * 6, ("! " + fmt.plain(mark), "bold red"))


def _end(commit: Commit, gone: Collection[str], left: State | None) -> Text:
    words = ["(rolled back)"] if commit.commit in gone else []
    words += [_LEFT[left]] if left in _LEFT else []
    told = refs(commit)
    return Text(_GAP).join([*map(Text, words), *([told] if told else [])])


def _head(commit: Commit, now: datetime) -> list[Text]:
    return [
        Text(f"{_number(commit):>4}", "bold"),
        Text(commit.short, "yellow"),
        Text(fmt.moment(commit.time, now)),
        Text(f"{fmt.age(commit.time, now):<11}", "dim"),
    ]


def _number(commit: Commit) -> str:
    return name(commit) if commit.kind in ("batch", "init") else "·"


def _title(commit: Commit) -> str:
    return fmt.plain(commit.data.name) if commit.data else subject(commit)


def _body(commit: Commit, lookup: Lookup, shape: _Shape) -> list[Text]:
    wide, room = shape.wide, shape.room
    if commit.kind == "rollback":
        said = (words(commit).splitlines() or [""])[0]
        where = f"rolled back to {brought_back(commit, lookup)}"
        return [Text(where, "bold magenta"), Text(said, "dim")]
    if commit.kind not in ("batch", "import"):
        return [Text(_title(commit), "dim")]
    cells = [
        Text(f"{fmt.shorten(_title(commit), room):<{room}}"),
        Text(f"{fmt.count(commit.steps, 'step'):>9}"),
    ]
    if commit.loss is None:
        cells.append(Text(f"{'no loss':<{31 if wide else 23}}", "dim"))
    else:
        first, last = commit.loss.first, commit.loss.last
        difference, style = trend(first, last)
        cells.append(Text(f"{fmt.loss(first):>6} → {fmt.loss(last):<6}"))
        cells.append(Text(f"{difference:>6}", style))
        if wide:
            cells.append(Text(f"{fmt.percent(first, last):>6}", style))
    if shape.gated:
        cells.append(Text(f"{f'gate {fmt.loss(commit.gate.value)}' if commit.gate else '':<11}"))
    if shape.blocks:
        cells.append(Text(f"{sparkline(commit.curve, shape.blocks):<{shape.blocks}}", "cyan"))
    if commit.seconds is not None:
        cells.append(Text(f"{fmt.duration(commit.seconds):>6}", "dim"))
    return cells


def _join(cells: Sequence[Text]) -> Text:
    line = Text(_GAP).join(cells)
    line.rstrip()
    return line
