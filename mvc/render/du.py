"""What `mvc du` says."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from mvc.keeping import DuResult
from mvc.render import format as fmt
from mvc.render.facts import Fact, section
from mvc.render.log import label, subject

_STATES = {"whole": "", "thin": "  adapter only", "absent": "  not here"}


def du(result: DuResult, limit: int) -> Iterator[Text]:
    """The sums, then the newest days and commits, at most `limit` of each."""
    objects = fmt.count(result.num_objects, "object")
    lines: list[Fact] = [("cache", f"{fmt.size(result.num_bytes)} in {objects}")]
    lines += [(name, fmt.size(size)) for name, size in result.parts.items()]
    lines += [("shared", f"{fmt.size(result.num_shared_bytes)} named by several commits")]
    if result.num_stray_bytes:
        lines.append(("stray", f"{fmt.size(result.num_stray_bytes)} named by no commit"))
    trash = sum(each.num_bytes for each in result.trash)
    lines.append(("trash", fmt.size(trash) + (" (`mvc gc --restore`)" if trash else "")))
    for remote in result.remotes:
        size = "unknown" if remote.num_bytes is None else fmt.size(remote.num_bytes)
        count = fmt.count(remote.num_objects, "object")
        lines.append((fmt.plain(remote.remote), f"{size} in {count}"))
    if result.num_free_bytes is None:
        lines.append(("policy", "none: `mvc gc` frees nothing"))
    else:
        lines.append(("policy", f"`mvc gc` would free {fmt.size(result.num_free_bytes)}"))
    yield section("Bytes", lines)
    if limit:
        yield section(
            "By day",
            [(day.day, _day(day.num_commits, day.num_bytes)) for day in result.days[:limit]],
        )
        yield Text("By commit", "bold")
    for each in result.commits[:limit]:
        yield Text.assemble(
            "  ",
            label(each.commit),
            f"  {fmt.size(each.num_bytes):>8}, {fmt.size(each.num_unique_bytes)} its own  ",
            fmt.plain(each.commit.data.name) if each.commit.data else subject(each.commit),
            (_STATES[each.state], "yellow"),
        )


def _day(num_commits: int, num_bytes: int) -> str:
    return f"{fmt.size(num_bytes):>8}  {fmt.count(num_commits, 'commit')}"
