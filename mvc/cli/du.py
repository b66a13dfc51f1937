"""`mvc du`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("du", short_help="Where the bytes are.")
@click.option(
    "--remote", "remotes", metavar="NAME", multiple=True, help="Count this remote's objects too."
)
@click.option("-n", "--limit", type=click.IntRange(min=0), default=10, metavar="N",
              help="Show N commits and N days (default 10).")  # fmt: skip
@as_json
def command(remotes: tuple[str, ...], limit: int, json_: bool) -> None:
    """Count the bytes of the states: by part, day and commit, shared and unique, and the trash.

    \b
    Examples:
      mvc du
      mvc du --remote origin --json
    """
    from mvc.ops import du
    from mvc.render.progress import progress

    display = progress()
    try:
        result = du.du(here(), remotes=remotes, progress=display)
    finally:
        display.stop()
    if json_:
        write(result)
        return
    from mvc.render import console
    from mvc.render import du as told

    console.show(*told.du(result, limit))
