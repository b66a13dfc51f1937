"""`mvc export`."""

from __future__ import annotations

from pathlib import Path

import click

from mvc.cli.context import as_json, here, write


@click.command("export", short_help="A plain copy of a revision's state, or its merged model.")
@click.option("--merged", is_flag=True, help="The base with the adapter merged into its weights.")
@click.argument("rev", metavar="REV")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@as_json
def command(rev: str, directory: Path, merged: bool, json_: bool) -> None:
    """Copy the current_model/ of REV to the new folder DIR: real files, checked, no links.

    With --merged a whole model is written, which transformers loads without PEFT.

    \b
    Examples:
      mvc export 2026-11-20 ../friday
      mvc export HEAD ../served --merged
    """
    from mvc.ops import export
    from mvc.render import document
    from mvc.render.progress import progress

    display = progress()
    try:
        result = export.export(here(), rev, directory, merged=merged, progress=display)
    finally:
        display.stop()
    if json_:
        write(document.export(result))
        return
    from mvc.render import console
    from mvc.render import transit as told

    console.show(*told.export(result))
