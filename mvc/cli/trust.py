"""`mvc trust`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("trust", short_help="What this repo would run here, and whether it may.")
@click.option("--remote-code", is_flag=True, help="Allow the base model's code, as it is now.")
@click.option("--launch", is_flag=True, help="Allow training with who joins at the endpoint.")
@click.option("--revoke", is_flag=True, help="Take back whatever this repo was allowed.")
@as_json
def command(remote_code: bool, launch: bool, revoke: bool, json_: bool) -> None:
    """List the code that this repo would run on this machine, and whether you allow it.

    A base model may come with code of its own, which runs only once you have allowed it: here, for
    this repo, and for these very files. An mvc.toml that has several machines train together
    (launch.nnodes) does so only where you have allowed the place at which they meet. Both are
    written to your own configuration, not to the repo.

    \b
    Examples:
      mvc trust
      mvc trust --remote-code
      mvc trust --launch
      mvc trust --revoke
    """
    from mvc.errors import UsageError
    from mvc.ops import trust
    from mvc.render.progress import progress

    if remote_code + launch + revoke > 1:
        raise UsageError(
            "--remote-code, --launch and --revoke are asked for one at a time",
            "run `mvc trust` to see what holds",
        )
    if revoke:
        revoked = trust.revoke(here())
        if json_:
            write({"revoked": revoked})
        else:
            click.echo(
                "Taken back: this repo may run nothing here"
                if revoked
                else "This repo was allowed nothing here"
            )
        return
    display = progress()
    try:
        ask = trust.allow if remote_code else trust.allow_launch if launch else trust.trust
        result = ask(here(), progress=display)
    finally:
        display.stop()
    if json_:
        write(result)
        return
    from mvc.render import console
    from mvc.render import trust as told

    console.show(*told.trust(result))
