"""`mvc checkout`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("checkout", short_help="Put a revision's state into current_model/.")
@click.argument("rev", metavar="REV")
@as_json
def command(rev: str, json_: bool) -> None:
    """Put the state of REV into current_model/ and HEAD there.

    A date is that day's snapshot, or else its last commit; a time is the last commit at or before
    it; @N is batch N of this line; branches, tags and hashes are as in git.

    \b
    Examples:
      mvc checkout 2026-11-20
      mvc checkout @42
      mvc checkout main
    """
    from mvc.ops import checkout
    from mvc.render import document
    from mvc.render.progress import progress

    display = progress()
    try:
        result = checkout.checkout(here(), rev, progress=display)
    finally:
        display.stop()
    if json_:
        write(document.arrival(result))
        return
    from mvc.render import console
    from mvc.render import result as told

    console.show(*told.arrival(result, "Checked out"))
