"""`mvc clone`."""

from __future__ import annotations

from pathlib import Path

import click

from mvc.cli.context import as_json, write
from mvc.cli.remote import endpoint_option, options_option, parsed


@click.command("clone", short_help="A model repo from its remote, with the newest state.")
@click.argument("url", metavar="URL")
@click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path)
)
@click.option(
    "--data",
    "data_url",
    metavar="URL",
    help="Where the objects are, if the repo does not say, or not rightly.",
)
@endpoint_option
@options_option
@click.option("--adapter-only", is_flag=True, help="Only what inference needs.")
@click.option("--all", "all_states", is_flag=True, help="The states of all commits.")
@as_json
def command(
    url: str,
    directory: Path | None,
    data_url: str | None,
    endpoint: str | None,
    options: tuple[str, ...],
    adapter_only: bool,
    all_states: bool,
    json_: bool,
) -> None:
    """Clone the model repo at URL into DIR, with its newest state; older ones come when needed.

    \b
    Examples:
      mvc clone git@example.org:team/model.git
      mvc clone https://example.org/model.git served --adapter-only
    """
    from mvc.errors import UsageError
    from mvc.ops import clone
    from mvc.render import share
    from mvc.render.progress import progress

    if adapter_only and all_states:
        raise UsageError("--adapter-only and --all contradict each other", "leave one of them out")
    display = progress()
    try:
        result = clone.clone(
            url,
            directory,
            data_url=data_url,
            options=parsed(options, endpoint),
            adapter_only=adapter_only,
            all_states=all_states,
            progress=display,
        )
    finally:
        display.stop()
    if json_:
        write(result)
        return
    from mvc.render import console

    console.show(*share.clone(result))
