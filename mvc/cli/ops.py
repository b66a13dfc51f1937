"""`mvc ops`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, now, write


@click.command("ops", short_help="What changed this repo, newest first.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    default=20,
    show_default=True,
    help="The newest N operations only.",
)
@as_json
def command(limit: int, json_: bool) -> None:
    """List the operations that changed this repo, newest first, for `mvc undo`.

    Each line is one command: its id, when it was, and what it moved. The log is this machine's
    own; a clone begins with an empty one.

    \b
    Examples:
      mvc ops
      mvc undo 3f9a1c2b
    """
    from mvc.ops import ops
    from mvc.render import ops as told

    layout = here()
    found = ops.ops(layout, limit)
    if json_:
        write([told.document(each) for each in found])
        return
    from mvc.render import console

    console.show(*told.ops(found, now=now(layout)))
