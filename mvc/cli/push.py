"""`mvc push`."""

from __future__ import annotations

import click

from mvc import importing
from mvc.cli.context import as_json, here, write


@click.command("push", short_help="Send the branch, its snapshots and their objects.")
@click.argument("remote", metavar="[REMOTE]", required=False)
@click.option(
    "--all",
    "all_states",
    is_flag=True,
    help="Look for the objects of every commit there, as after a plain `git push`.",
)
@as_json
def command(remote: str | None, all_states: bool, json_: bool) -> None:
    """Send HEAD's branch and all snapshots to REMOTE: the objects first, the refs after them.

    Only what the remote lacks travels; killed and run again, it goes on from what arrived.

    \b
    Example:
      mvc push
    """
    from mvc.ops import push
    from mvc.render.progress import progress

    importing.soon("mvc.render.share")
    display = progress()
    try:
        result = push.push(here(), remote, all_states=all_states, progress=display)
    finally:
        display.stop()
    if json_:
        write(result)
        return
    from mvc.render import console, share

    console.show(*share.push(result))
