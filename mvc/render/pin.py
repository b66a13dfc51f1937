"""What `mvc pin` says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from mvc.keeping import Pin
from mvc.render import format as fmt
from mvc.render.log import label, subject


def pin(found: Pin, *, removed: bool) -> Iterator[Text]:
    """One that was set or removed."""
    verb, style = ("Unpinned ", "bold yellow") if removed else ("Pinned ", "bold green")
    yield Text.assemble((verb, style), label(found.commit), f"  {_what(found)}")
    if not removed and found.here != "whole":
        what = "only its adapter is" if found.here == "thin" else "its state is not"
        yield Text(f"  {what} on this machine; what is here or comes, stays", "yellow")
    if not removed:
        yield Text(f"  tag {fmt.plain(found.name)}: `mvc gc` never touches its state", "dim")


def pins(found: Sequence[Pin]) -> Iterator[Text]:
    """All of them."""
    if not found:
        yield Text("No pins yet: `mvc pin REV` sets one")
    for each in found:
        yield Text.assemble(
            label(each.commit), f"  {each.commit.time:%Y-%m-%d %H:%M}  {_what(each)}"
        )


def _what(found: Pin) -> str:
    return fmt.plain(found.message.partition("\n")[0]) or subject(found.commit)
