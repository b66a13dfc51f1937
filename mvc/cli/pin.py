"""`mvc pin`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("pin", short_help="Keep a revision whole, whatever the policy says.")
@click.argument("rev", metavar="[REV]", required=False)
@click.option("-m", "--message", metavar="TEXT", help="Why it is kept.")
@click.option("--remove", is_flag=True, help="Let the policy have it again.")
@as_json
def command(rev: str | None, message: str | None, remove: bool, json_: bool) -> None:
    """Pin REV, so that `mvc gc` never touches its state; without REV, list the pins.

    A pin is the tag pin/HASH, of this clone until `git push REMOTE pin/HASH` carries it.

    \b
    Examples:
      mvc pin @42 -m "what we shipped"
      mvc pin
      mvc pin --remove @42
    """
    from mvc.errors import UsageError
    from mvc.ops import pin
    from mvc.render import console, document
    from mvc.render import pin as told

    if rev is None and (remove or message):
        raise UsageError("which revision?", "name one: `mvc pin @42`; `mvc pin` lists the pins")
    if rev is None:
        found = pin.pins(here())
        write(found) if json_ else console.show(*told.pins(found))
        return
    made = pin.unpin(here(), rev) if remove else pin.pin(here(), rev, message)
    if json_:
        click.echo(document.dump(made))
    else:
        console.show(*told.pin(made, removed=remove))
