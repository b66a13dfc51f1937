"""`mvc status`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, now, write


@click.command("status", short_help="Where HEAD is, and whether the state matches it.")
@as_json
def command(json_: bool) -> None:
    """Tell where HEAD is, whether the state matches it, and what is in progress or unpushed.

    \b
    Example:
      mvc status --json
    """
    from mvc.ops import status

    layout = here()
    result = status.status(layout)
    if json_:
        write(result)
        return
    from mvc.render import console
    from mvc.render import status as told

    console.show(*told.status(result, now=now(layout)))
