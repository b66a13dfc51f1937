"""`mvc undo`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("undo", short_help="Take back the last operation, or a named one.")
@click.argument("op", metavar="[OP]", required=False)
@as_json
def command(op: str | None, json_: bool) -> None:
    """Take back the last operation, or the one whose id (`mvc ops`) begins with OP.

    Branches, tags, HEAD and current_model/ are as they were before it. Nothing is lost: what is
    taken back stays in git, and undoing the undo brings it again. A push cannot be taken back.

    \b
    Examples:
      mvc undo
      mvc undo 3f9a1c2b
    """
    from mvc.ops import undo
    from mvc.render import ops as told
    from mvc.render.progress import progress

    display = progress()
    try:
        result = undo.undo(here(), op, progress=display)
    finally:
        display.stop()
    if json_:
        write(told.undo_document(result))
        return
    from mvc.render import console

    console.show(*told.undone(result))
