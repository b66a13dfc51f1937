"""What `mvc import` brought in and `mvc export` wrote out."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.facts import facts
from mvc.render.log import label
from mvc.sharing import ExportResult, ImportResult


def import_(result: ImportResult) -> Iterator[Text]:
    """A new model repo, and the history that it begins with."""
    days = [day for commit in result.commits for day in commit.snapshots]
    told = fmt.count(len(result.commits), "commit")
    if days:
        told += f", {fmt.count(len(days), 'snapshot')} ({min(days)} to {max(days)})"
    last = result.commits[-1]
    yield Text.assemble("Made ", (fmt.plain(str(result.root)), "bold"))
    yield facts(
        [
            ("base", f"{fmt.plain(result.base)} ({result.digest[:12]})"),
            ("trainable", fmt.count(result.num_trainable_parameters, "parameter")),
            ("history", told),
            ("newest", Text.assemble(label(last), f", lifetime step {last.lifetime_step:,}")),
        ]
    )
    for warning in last.warnings:
        yield Text("  ! " + fmt.plain(warning), "bold red")
    yield Text("  look at [train] in mvc.toml, then `mvc train FILE` goes on from here", "dim")


def export(result: ExportResult) -> Iterator[Text]:
    """A folder with a revision's state, or the merged model."""
    what = "the merged model of " if result.merged else ""
    yield Text.assemble(
        f"Wrote {what}", label(result.commit), f": {fmt.plain(result.resolved.how)}"
    )
    size = f"{fmt.count(result.num_files, 'file')}, {fmt.size(result.num_bytes)}"
    yield Text(f"  {fmt.plain(str(result.folder))}: {size}", "dim")
