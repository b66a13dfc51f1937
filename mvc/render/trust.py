"""`mvc trust`: the code that a repo would run, and whether it may."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.facts import facts
from mvc.sharing import TrustResult


def trust(result: TrustResult) -> Iterator[Text]:
    """What the base would run, file by file, and who decides."""
    base = fmt.plain(result.base)
    if not result.classes:
        yield Text(f"Nothing to run: {base} comes with no code")
    else:
        may = ("allowed", "green") if result.allowed else ("not allowed", "bold yellow")
        yield Text.assemble(f"Code of {base}: ", may)
        yield facts(
            [
                ("would run", fmt.plain(", ".join(result.classes))),
                ("files", fmt.plain(", ".join(result.files) or "none")),
                ("in", fmt.plain(result.folder)),
                ("digest", Text(result.digest[:12], "yellow")),
            ]
        )
        if result.changed:
            yield Text("  ! other code was allowed: this one changed since", "bold red")
        if not result.allowed:
            yield Text("  read it, then `mvc trust --remote-code` allows it, for this repo", "dim")
    if result.dvc_config:
        yield Text("Every option of the tracked .dvc/config is obeyed")
    if result.launch:
        met = result.launch == result.launch_allowed
        may = ("allowed", "green") if met else ("not allowed", "bold yellow")
        yield Text.assemble(f"Training with who joins at {fmt.plain(result.launch)}: ", may)
        if not met:
            yield Text("  if that is your machine, `mvc trust --launch` allows it", "dim")
    elif result.launch_allowed:
        yield Text(f"Training with who joins at {fmt.plain(result.launch_allowed)}: allowed")
    if result.allowed or result.dvc_config or result.launch_allowed:
        yield Text(
            f"  by {fmt.plain(str(result.config))}; `mvc trust --revoke` takes it back", "dim"
        )
