"""`mvc snapshots`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, now, write


@click.command("snapshots", short_help="List the pinned days.")
@as_json
def command(json_: bool) -> None:
    """List the pinned days.

    \b
    Example:
      mvc snapshots
    """
    from mvc.ops import snapshot
    from mvc.render import document

    layout = here()
    results = snapshot.snapshots(layout)
    if json_:
        write([document.snapshot(result) for result in results])
        return
    from mvc.render import console
    from mvc.render import result as told

    console.show(*told.snapshots(results, now=now(layout)))
