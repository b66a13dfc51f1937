"""`mvc fsck`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("fsck", short_help="Check every stored object against its hash.")
@as_json
def command(json_: bool) -> None:
    """Check every stored object against its hash, every commit, and the present state.

    Ends with exit code 1 where something is wrong.

    \b
    Example:
      mvc fsck
    """
    from mvc.ops import fsck
    from mvc.render.progress import progress

    display = progress()
    try:
        result = fsck.fsck(here(), progress=display)
    finally:
        display.stop()
    if json_:
        write(result)
    else:
        from mvc.render import console
        from mvc.render import fsck as told

        console.show(*told.fsck(result))
    if result.findings:
        raise click.exceptions.Exit(1)
