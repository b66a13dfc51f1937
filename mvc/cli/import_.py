"""`mvc import`."""

from __future__ import annotations

from pathlib import Path

import click

from mvc.cli.context import as_json, write


@click.command("import", short_help="Make a model repo of what a script or a Trainer left.")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--base",
    required=True,
    metavar="REF",
    help="The model that the adapters are for: a hub id, a local folder, a GGUF file...",
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
    path: Path,
    directory: Path,
    base: str,
    revision: str,
    sets: tuple[str, ...],
    trust_remote_code: bool,
    json_: bool,
) -> None:
    """Make a model repo in DIR (here by default) of the states in PATH, which is only read.

    PATH is a folder with current_model/ and snapshots/YYYY-MM-DD/, one with checkpoint-N/ as a
    Trainer leaves it, or one adapter. Each state becomes a commit at its date; the LoRA and the
    rate of mvc.toml are the last one's. What no file tells stands at its default: look at
    train.micro_batch_size and train.max_length.

    \b
    Examples:
      mvc import ~/bot my-model --base Qwen/Qwen2.5-7B
      mvc import ~/bot/output my-model --base ~/models/llama --set train.max_length=2048
    """
    from mvc.ops import import_
    from mvc.render.progress import progress

    display = progress()
    try:
        result = import_.import_(
            path,
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
    from mvc.render import transit as told

    console.show(*told.import_(result))
