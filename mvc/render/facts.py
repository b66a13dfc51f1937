"""The shape that most answers have: a title and lines of `name  value`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from mvc.render import format as fmt

Fact = tuple[str, str | Text]


def facts(lines: Iterable[Fact]) -> Text:
    """Lines of a dim name and its value, the values in one column."""
    rows = list(lines)
    width = max((len(key) for key, _ in rows), default=0)
    return Text("\n").join(
        Text.assemble("  ", (f"{key:<{width}}", "dim"), "  ", value) for key, value in rows
    )


def section(title: str, lines: Iterable[Fact]) -> Text:
    """`facts` under a bold title."""
    return Text.assemble((title, "bold"), "\n", facts(lines))


def flat(values: Mapping[str, Any], prefix: str = "") -> list[Fact]:
    """Nested tables as lines with dotted names, as `mvc init --set` takes them."""
    lines: list[Fact] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{key}.")
        else:
            # As in TOML, but without the quotes of a word.
            shown = value if isinstance(value, str) and value else json.dumps(value, default=str)
            lines.append((f"{prefix}{key}", fmt.plain(shown)))
    return lines
