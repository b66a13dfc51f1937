"""`mvc pull`."""

from __future__ import annotations

import click

from mvc import importing
from mvc.cli.context import as_json, here, write


@click.command("pull", short_help="Bring the branch forward to the remote's.")
@click.argument("remote", metavar="[REMOTE]", required=False)
@click.option(
    "--keep-as",
    metavar="NAME",
    help="Where both sides trained: keep mine as branch NAME, and take theirs.",
)
@click.option("--adapter-only", is_flag=True, help="Only what inference needs.")
@click.option("--all", "all_states", is_flag=True, help="The states of all commits.")
@as_json
def command(
    remote: str | None, keep_as: str | None, adapter_only: bool, all_states: bool, json_: bool
) -> None:
    """Bring HEAD's branch forward to where it is on REMOTE, with its state.

    A branch that cannot just move forward stays where it is, and both histories are shown.

    \b
    Examples:
      mvc pull
      mvc pull --keep-as mine
      mvc pull --adapter-only
    """
    from mvc.errors import UsageError
    from mvc.ops import pull
    from mvc.render.progress import progress

    if adapter_only and all_states:
        raise UsageError("--adapter-only and --all contradict each other", "leave one of them out")
    importing.soon("mvc.render.share")
    display = progress()
    try:
        result = pull.pull(
            here(),
            remote,
            adapter_only=adapter_only,
            all_states=all_states,
            keep_as=keep_as,
            progress=display,
        )
    finally:
        display.stop()
    if json_:
        write(result)
        return
    from mvc.render import console, share

    console.show(*share.pull(result))
