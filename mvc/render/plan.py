"""`mvc train --dry-run`: what a file would be as a batch."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.facts import Fact, section
from mvc.types import BatchPlan


def plan(value: BatchPlan) -> Iterator[Text]:
    """Rows, tokens and steps of one file; rows over the maximum length are never hidden."""
    share = value.num_trainable_tokens / value.num_tokens if value.num_tokens else 0.0
    sequences = fmt.count(value.num_sequences, "sequence")
    passes = fmt.count(value.passes, "pass", "passes")
    lines: list[Fact] = [
        ("rows", f"{value.num_rows:,}"),
        ("trained as", f"{sequences} of at most {fmt.count(value.max_length, 'token')}"),
        (
            "tokens",
            f"{value.num_tokens:,}, {value.num_trainable_tokens:,} to be learned ({share:.0%})",
        ),
        ("steps", f"{value.num_steps:,} in {passes}"),
    ]
    over = [
        (value.num_dropped, "left out: nothing to train within the maximum length"),
        (value.num_truncated - value.num_dropped, "cut off at the maximum length"),
        (value.num_split, "split at the maximum length"),
    ]
    for number, fate in over:
        if number:
            lines.append(("too long", Text(f"{fmt.count(number, 'row')} {fate}", "yellow")))
    yield section(f"{fmt.plain(value.data.name)} ({fmt.size(value.data.size_bytes)})", lines)
