"""`mvc init`."""

from __future__ import annotations

from pathlib import Path

import click

from mvc.cli.context import as_json, write


@click.command("init", short_help="Make a model repo.")
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--base",
    required=True,
    metavar="REF",
    help="The frozen model: a hub id, a local folder, a GGUF file, package:NAME, or smollm2-135m.",
)
@click.option("--revision", default="", help="The hub revision; pinned to its commit hash.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Fill mvc.toml.")
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Let this repo run the code that the base comes with, on this machine.",
)
@as_json
def command(
    directory: Path,
    base: str,
    revision: str,
    sets: tuple[str, ...],
    trust_remote_code: bool,
    json_: bool,
) -> None:
    """Make a model repo in DIR (here by default) and commit the untrained state.

    \b
    Example:
      mvc init my-model --base smollm2-135m --set train.learning_rate=1e-4
    """
    from mvc.ops import init
    from mvc.render.progress import progress

    display = progress()
    try:
        result = init.init(
            directory,
            base,
            revision=revision,
            sets=sets,
            trust_remote_code=trust_remote_code,
            progress=display,
        )
    finally:
        display.stop()
    if json_:
        write(result)
        return
    from mvc.render import console
    from mvc.render import result as told

    console.show(*told.init(result))
