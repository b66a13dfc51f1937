"""What a verb says when it is done: init, train, snapshot, checkout, rollback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.facts import facts
from mvc.render.log import label, subject, trend
from mvc.render.marks import name
from mvc.render.sparkline import sparkline
from mvc.types import BatchResult, CheckoutResult, InitResult, Snapshot


def init(result: InitResult) -> Iterator[Text]:
    """A new model repo: where, on what, how much of it learns."""
    yield Text.assemble("Made ", (fmt.plain(str(result.root)), "bold"))
    yield facts(
        [
            ("base", f"{fmt.plain(result.base)} ({result.digest[:12]})"),
            ("trainable", fmt.count(result.num_trainable_parameters, "parameter")),
            ("commit", Text(result.commit.short, "yellow")),
        ]
    )


def batch(result: BatchResult) -> Iterator[Text]:
    """A trained batch: loss first to last, its curve, the commit."""
    commit = result.commit
    title = fmt.plain(commit.data.name) if commit.data else subject(commit)
    where = label(commit)
    if result.already:
        yield Text.assemble(f"{title} is in this line already: ", where)
        yield Text("  train it once more with `mvc train --again`", "dim")
        return
    line = Text.assemble(where, f"  {title}")
    if commit.loss is not None:
        first, last = commit.loss.first, commit.loss.last
        difference, style = trend(first, last)
        line.append(f"  loss {fmt.loss(first)} → {fmt.loss(last)}  ").append(difference, style)
    yield line
    told = [fmt.count(commit.steps, "step")]
    if commit.seconds is not None:
        told.append(fmt.duration(commit.seconds))
    if result.tokens_per_s:
        told.append(f"{result.tokens_per_s:,.0f} tokens/s")
    if result.peak_memory_bytes:
        told.append(f"{fmt.size(result.peak_memory_bytes)} at most")
    if commit.gate is not None:
        told.append(f"gate {fmt.loss(commit.gate.value)}")
    if result.branch:
        told.append(f"on {fmt.plain(result.branch)}")
    yield Text.assemble("  ", (sparkline(commit.curve, 32), "cyan"), "  ", ", ".join(told))
    for warning in commit.warnings:
        yield Text("  ! " + fmt.plain(warning), "bold red")


def arrival(result: CheckoutResult, verb: str) -> Iterator[Text]:
    """Where a checkout or rollback arrived, and how the revision was understood."""
    how = fmt.plain(result.resolved.how)
    if result.commit.kind == "rollback":
        target = (result.resolved.commit[:10], "yellow")
        yield Text.assemble(
            f"{verb} ", target, f" ({how}) with a new commit, ", label(result.commit)
        )
    else:
        yield Text.assemble(f"{verb} ", label(result.commit), f": {how}")
    changed = fmt.count(result.num_files_changed, "file")
    where = f"on {fmt.plain(result.branch)}" if result.branch else "on no branch"
    yield Text(f"  {changed} of current_model/ changed, {where}", "dim")
    if result.branch is None:
        yield Text("  training from here starts a branch by itself", "dim")


def snapshot(result: Snapshot) -> Iterator[Text]:
    """A day that was pinned."""
    yield Text.assemble("Pinned ", (result.tag, "bold yellow"), " at ", label(result.commit))
    yield Text(f"  bring it back with `mvc checkout {result.day}`", "dim")


def snapshots(results: Sequence[Snapshot], *, now: datetime) -> Iterator[Text]:
    """The list of pinned days, one line each."""
    if not results:
        yield Text("No snapshots yet: `mvc snapshot` pins today.")
    for pin in results:
        loss = f"loss {fmt.loss(pin.commit.loss.last):<6}" if pin.commit.loss else " " * 11
        line = Text.assemble(
            (pin.day, "bold yellow"),
            f"  {name(pin.commit):>5} ",
            (pin.commit.short, "yellow"),
            f"  {loss}  ",
            (f"{fmt.age(pin.time, now):<11}", "dim"),
            f"  {fmt.plain(pin.message)}",
        )
        line.rstrip()
        yield line
