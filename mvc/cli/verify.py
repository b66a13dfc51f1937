"""`mvc verify`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("verify", short_help="Check the signatures of commits and snapshots.")
@click.argument("rev", metavar="[REV]", default="HEAD")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), help="How many commits at most; -1 is -n 1."
)
@click.option("-1", "only", is_flag=True, help="REV alone.")
@as_json
def command(rev: str, limit: int | None, only: bool, json_: bool) -> None:
    """Check the signatures of REV, of the commits before it, and of their snapshots.

    git checks them, with the GPG and SSH keys that you trust (for SSH those of the file in
    gpg.ssh.allowedSignersFile). Ends with exit code 1 where one is missing, a stranger's or bad.

    \b
    Examples:
      mvc verify
      mvc verify -1 2026-11-20
    """
    from mvc.ops import verify
    from mvc.render import document
    from mvc.render.progress import progress

    display = progress()
    try:
        result = verify.verify(here(), rev, 1 if only else limit, progress=display)
    finally:
        display.stop()
    if json_:
        write({"good": result.good, **document.simple(result)})
    else:
        from mvc.render import console
        from mvc.render import verify as told

        console.show(*told.verify(result))
    if not result.good:
        raise click.exceptions.Exit(1)
