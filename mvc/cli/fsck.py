"""`mvc fsck`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, write


@click.command("fsck", short_help="Check every stored object against its hash.")
@click.option("--remote", metavar="NAME", help="Check what lies on this remote too.")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --remote: read only N files there, drawn by chance.",
)
@click.option("--repair", is_flag=True, help="Mend what is damaged from a remote, or there.")
@as_json
def command(remote: str | None, sample: int | None, repair: bool, json_: bool) -> None:
    """Check every stored object against its hash, every commit, and the present state.

    Ends with exit code 1 where something is wrong.

    \b
    Examples:
      mvc fsck
      mvc fsck --repair
      mvc fsck --remote origin --sample 100
    """
    from mvc.errors import UsageError
    from mvc.ops import fsck
    from mvc.render.progress import progress

    if sample is not None and remote is None:
        raise UsageError("--sample is of a remote's files", "add --remote NAME")
    display = progress()
    try:
        result = fsck.fsck(here(), progress=display, remote=remote, sample=sample, repair=repair)
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
