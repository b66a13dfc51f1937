"""`mvc show`: one commit whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.facts import Fact, facts, flat, section
from mvc.render.log import refs, subject, trend, words
from mvc.render.marks import Lookup, marks, name
from mvc.render.sparkline import sparkline
from mvc.types import Commit, CommitDetail


def show(
    detail: CommitDetail, *, now: datetime, width: int | None, lookup: Lookup
) -> Iterator[Text]:
    """A commit with its data, loss, files, settings and environment, section by section."""
    commit = detail.commit
    yield title(commit)
    yield facts([*_identity(commit, now), *figures(commit)])
    for mark in (*commit.warnings, *marks(commit, lookup)):
        yield Text("  ! " + fmt.plain(mark), "bold red")
    if detail.curve:
        losses = [point.loss for point in detail.curve]
        yield section(
            "Loss curve",
            [
                ("shape", Text(sparkline(losses, (width or 80) - 14), "cyan")),
                ("lowest", fmt.loss(min(losses))),
                ("highest", fmt.loss(max(losses))),
            ],
        )
    stored = [detail.state] if detail.batch is None else [detail.state, detail.batch]
    yield section(
        "Stored",
        [
            (
                pointer.path,
                f"{fmt.size(pointer.size_bytes)} in {fmt.count(pointer.num_files, 'file')}, "
                f"md5 {pointer.md5}",
            )
            for pointer in stored
        ],
    )
    if detail.files:
        yield section(
            "Files of the state",
            [
                (
                    fmt.plain(file.path),
                    f"{fmt.size(file.size_bytes):>7}  sha256 {file.sha256[:16]}…",
                )
                for file in detail.files
            ],
        )
    for heading, values in (("Settings", detail.settings), ("Environment", detail.environment)):
        if values:
            yield section(heading, flat(values))


def title(commit: Commit) -> Text:
    """The commit's number, hash and names."""
    label = "" if name(commit) == commit.short else f"{name(commit)} "
    line = Text.assemble((label, "bold"), (commit.commit, "yellow"), "  ", refs(commit))
    line.rstrip()
    return line


def figures(commit: Commit) -> list[Fact]:
    """What a batch was trained on and how its loss went; empty for other commits."""
    lines: list[Fact] = []
    if commit.data is not None:
        rows, tokens = fmt.count(commit.data.rows, "row"), fmt.count(commit.data.tokens, "token")
        lines.append(("data", f"{fmt.plain(commit.data.name)} ({rows}, {tokens})"))
    if commit.kind in ("batch", "import"):
        took = "" if commit.seconds is None else f" in {fmt.duration(commit.seconds)}"
        lifetime = fmt.count(commit.lifetime_step, "lifetime step")
        lines.append(("steps", f"{commit.steps:,}{took}, {lifetime}"))
    if commit.loss is not None:
        first, last = commit.loss.first, commit.loss.last
        difference, style = trend(first, last)
        told = " ".join(filter(None, (difference, fmt.percent(first, last))))
        value = Text.assemble(f"{fmt.loss(first)} → {fmt.loss(last)}  ", (told, style))
        lines.append(("loss", value.append(f"  mean {fmt.loss(commit.loss.mean)}")))
    if commit.gate is not None:
        told = f"{fmt.plain(commit.gate.metric)} {fmt.loss(commit.gate.value)}"
        lines.append(("gate", f"{told} on the held-out file"))
    if commit.learning_rate is not None:
        rates = commit.learning_rate
        lines.append(("rate", f"{fmt.rate(rates.first)} → {fmt.rate(rates.last)}"))
    return lines


def _identity(commit: Commit, now: datetime) -> list[Fact]:
    lines: list[Fact] = [
        ("what", subject(commit)),
        *[("", line) for line in words(commit).splitlines()],
        ("when", f"{fmt.moment(commit.time, now)} ({fmt.age(commit.time, now)})"),
    ]
    if commit.parents:
        lines.append(("parent", " ".join(parent[:10] for parent in commit.parents)))
    if commit.rollback_to:
        lines.append(("brings back", commit.rollback_to[:10]))
    return lines
