"""`mvc fsck`: what was looked at and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from mvc.render import format as fmt
from mvc.types import FsckResult


def fsck(result: FsckResult) -> Iterator[Text]:
    """The findings, each with its way out, then the sum."""
    for finding in result.findings:
        where = f"{finding.commit[:10]} " if finding.commit else ""
        yield Text.assemble(
            ("! ", "bold red"), (where, "yellow"), f"{fmt.plain(finding.path)}: {finding.problem}"
        )
        yield Text(f"  {finding.hint}", "dim")
    if result.num_repaired:
        yield Text.assemble(("Mended ", "bold green"), fmt.count(result.num_repaired, "object"))
    verdict = (
        (fmt.count(len(result.findings), "problem"), "bold red")
        if result.findings
        else ("All is well", "bold green")
    )
    yield Text.assemble(
        verdict,
        f": {fmt.count(result.num_commits, 'commit')}, "
        f"{fmt.count(result.num_objects, 'stored object')}, {fmt.size(result.num_bytes)} read",
    )
    if result.num_absent:
        absent = fmt.count(result.num_absent, "object")
        text = (
            f"  {absent} of older commits not here; a checkout brings what it needs from the remote"
        )
        yield Text(text, "dim")
    if result.num_given_up:
        gone = fmt.count(result.num_given_up, "object")
        yield Text(f"  {gone} not here: `mvc gc` let go of them", "dim")
    if result.num_excused:
        excused = fmt.count(result.num_excused, "commit")
        text = f"  {excused} there: not missed, for the remote's record says that `mvc gc` took it"
        yield Text(text, "dim")
