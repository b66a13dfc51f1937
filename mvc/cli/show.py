"""`mvc show`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, lookup, now, write


@click.command("show", short_help="One commit whole.")
@click.argument("rev", default="HEAD", metavar="[REV]")
@as_json
def command(rev: str, json_: bool) -> None:
    """Show one commit whole: data, loss, curve, files, settings, environment.

    \b
    Example:
      mvc show @2
    """
    from mvc.ops import show
    from mvc.render import document
    from mvc.render.marks import marks

    layout = here()
    result = show.show(layout, rev)
    find = lookup(layout, [result.commit])
    if json_:
        write(document.detail(result, marks(result.commit, find)))
        return
    from mvc.render import console
    from mvc.render import show as told

    console.show(*told.show(result, now=now(layout), width=console.width(), lookup=find))
