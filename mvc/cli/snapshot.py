"""`mvc snapshot`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("snapshot", short_help="Pin today.")
@click.option("-m", "--message", help="Why this day is worth keeping.")
@as_json
def command(message: str | None, json_: bool) -> None:
    """Pin HEAD as today's snapshot: a point to come back to, for good.

    \b
    Example:
      mvc snapshot -m "before the new data"
    """
    from mvc.ops import snapshot
    from mvc.render import document

    result = snapshot.snapshot(here(), message)
    if json_:
        write(document.snapshot(result))
        return
    from mvc.render import console
    from mvc.render import result as told

    console.show(*told.snapshot(result))
