"""`mvc status`: where the repo stands, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.facts import Fact, facts
from mvc.render.log import label
from mvc.types import RunInfo, Status

_STATE = {
    "clean": ("matches HEAD", "green"),
    "modified": ("differs from HEAD", "red"),
    "missing": ("is not there", "red"),
    "thin": ("has the adapter alone; `mvc gc` gave up its moments", "yellow"),
    "partial": ("has what inference needs; the rest was not fetched", "yellow"),
}


def status(value: Status, *, now: datetime) -> Iterator[Text]:
    """The repo's condition as lines of facts, each trouble with the command that ends it."""
    head = value.head
    detached = Text("none (HEAD is detached)", "yellow")
    lines: list[Fact] = [
        ("branch", fmt.plain(value.branch) if value.branch else detached),
        (
            "HEAD",
            Text.assemble(
                label(head), f"  {fmt.moment(head.time, now)} ({fmt.age(head.time, now)})"
            ),
        ),
    ]
    if head.data is not None and head.loss is not None:
        last = f"{fmt.plain(head.data.name)}, loss {fmt.loss(head.loss.first)} → "
        lines.append(("last batch", last + fmt.loss(head.loss.last)))
    lines.append(("state", Text.assemble("current_model/ ", _STATE[value.state])))
    if value.state not in ("partial", "thin"):
        lines += [("", fmt.plain(path)) for path in value.changed_files]
    if value.run is not None:
        lines.append(("in progress", _run(value.run)))
    if value.locked_by:
        lines.append(("at work", fmt.plain(value.locked_by)))
    if value.config_changed:
        lines.append(("mvc.toml", "changed since HEAD; the next batch uses it"))
    lines.append(("snapshot", value.last_snapshot or "none yet"))
    if value.unpushed is not None:
        lines.append(("unpushed", fmt.count(value.unpushed, "commit")))
    yield facts(lines)
    for hint in _hints(value):
        yield Text(f"  {hint}", "dim")


def _run(run: RunInfo) -> Text:
    how = ("being trained", "green") if run.live else ("interrupted", "yellow")
    return Text.assemble(f"{fmt.plain(run.data_name)}, checkpoint at step {run.step}, ", how)


def _hints(value: Status) -> Iterator[str]:
    if value.state == "partial":
        yield "run `mvc pull` to bring the rest, which training needs"
    elif value.state == "thin":
        yield "to train on, `mvc checkout` what `mvc log` shows whole, or `mvc gc --restore`"
    elif value.state != "clean":
        yield "run `mvc checkout HEAD` to put HEAD's state back"
    if value.run is not None and not value.run.live:
        yield "run `mvc train` with the same file to go on from its checkpoint"
    if value.branch is None:
        yield "training from here starts a branch by itself"
