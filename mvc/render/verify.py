"""`mvc verify`: each commit and snapshot with whose signature it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from mvc.render import format as fmt
from mvc.sharing import Signature, VerifyResult

_STYLES = {"good": "green", "unsigned": "yellow", "stranger": "yellow", "bad": "bold red"}


def verify(result: VerifyResult) -> Iterator[Text]:
    """The signatures, newest first, then how many of each kind."""
    for found in result.signatures:
        yield _line(found)
        if found.detail:
            yield Text(f"            {fmt.plain(found.detail)}", "dim")
    counts: Counter[str] = Counter(found.verdict for found in result.signatures)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in _STYLES if counts[kind])
    yield Text.assemble(
        ("All signed", "bold green") if result.good else ("Not all is signed", "bold red"),
        f": {told or 'nothing to check'}",
    )
    if not result.required:
        rule = "`require_signed = true` under [trust] in your own configuration"
        yield Text(f"  pull and checkout take all of these; {rule} makes them refuse", "dim")


def _line(found: Signature) -> Text:
    name = found.name[:10] if found.kind == "commit" else found.name
    who = " ".join(part for part in (found.signer, found.key) if part)
    return Text.assemble(
        (f"{found.verdict:<8}  ", _STYLES[found.verdict]),
        (fmt.plain(name), "yellow"),
        f"  {fmt.plain(found.subject)}",
        (f"  {fmt.plain(who)}" if who else "", "dim"),
    )
