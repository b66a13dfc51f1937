"""`mvc fetch`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("fetch", short_help="Bring what the remote has, and move nothing.")
@click.argument("remote", metavar="[REMOTE]", required=False)
@click.option("--all", "all_states", is_flag=True, help="The states of all commits.")
@as_json
def command(remote: str | None, all_states: bool, json_: bool) -> None:
    """Bring REMOTE's commits, snapshots and the newest state of this branch; nothing here moves.

    \b
    Examples:
      mvc fetch
      mvc fetch --all
    """
    from mvc.ops import fetch
    from mvc.render import share
    from mvc.render.progress import progress

    display = progress()
    try:
        result = fetch.fetch(here(), remote, all_states=all_states, progress=display)
    finally:
        display.stop()
    if json_:
        write(result)
        return
    from mvc.render import console

    console.show(*share.fetch(result))
