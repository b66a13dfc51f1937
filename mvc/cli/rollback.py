"""`mvc rollback`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("rollback", short_help="A new commit with an older revision's state.")
@click.option("-m", "--message", help="Words of yours for the commit.")
@click.argument("rev", metavar="REV")
@as_json
def command(rev: str, message: str | None, json_: bool) -> None:
    """Make a new commit on this branch with the state of REV; the history stays.

    \b
    Example:
      mvc rollback 2026-11-20 -m "the night's data was broken"
    """
    from mvc.ops import rollback
    from mvc.render import document
    from mvc.render.progress import progress

    display = progress()
    try:
        result = rollback.rollback(here(), rev, message=message, progress=display)
    finally:
        display.stop()
    if json_:
        write(document.arrival(result))
        return
    from mvc.render import console
    from mvc.render import result as told

    console.show(*told.arrival(result, "Rolled back to"))
