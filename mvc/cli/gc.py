"""`mvc gc`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from mvc.cli.context import as_json, here, write

if TYPE_CHECKING:
    from mvc.settings import Settings
    from mvc.store.layout import Layout

_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def _rules(function: Callable[..., None]) -> Callable[..., None]:
    """--keep-last N to --thin-within TIME: each stands for its key in mvc.toml, for this call."""
    for option in (
        click.option("--keep-snapshots/--no-keep-snapshots", default=None,
                     help="Keep snapshots whole, or their adapters alone."),
        click.option("--keep-tag", "keep_tags", metavar="PATTERN", multiple=True,
                     help="Keep whole what such tags name, instead of tags in mvc.toml."),
    ):  # fmt: skip
        function = option(function)
    for table, what in (("thin", "keep the adapter of"), ("keep", "keep whole")):
        option = click.option(f"--{table}-within", metavar="TIME", help="As within in mvc.toml.")
        function = option(function)
        for name in reversed(_COUNTS):
            told = f"{what} the newest N commits" if name == "last" else f"As {name} in mvc.toml"
            function = click.option(
                f"--{table}-{name}",
                type=click.IntRange(min=0),
                metavar="N",
                help=f"{told[0].upper()}{told[1:]}.",
            )(function)
    return function


@click.command("gc", short_help="Retention: let go of states by calendar and by part.")
@click.option("--apply", is_flag=True, help="Do it; without this the plan is only shown.")
@click.option(
    "--remote", "remotes", metavar="NAME", multiple=True, help="Let them go from this remote too."
)
@click.option("--unpushed", is_flag=True, help="Let go also of what no remote has.")
@click.option("--empty-trash", is_flag=True, help="With --apply: delete all trash for good.")
@click.option("--own-cache", is_flag=True,
              help="The cache lies outside the repo, and no other repo uses it.")  # fmt: skip
@click.option("--restore", "back", is_flag=False, flag_value="", metavar="[ID]",
              help="Bring back what the last gc, or trash ID, deleted.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Tell of every kept commit why it is kept.")
@_rules
@as_json
def command(
    apply: bool,
    remotes: tuple[str, ...],
    unpushed: bool,
    empty_trash: bool,
    own_cache: bool,
    back: str | None,
    verbose: bool,
    json_: bool,
    **rules: Any,
) -> None:
    """Let go of what [keep] and [thin] in mvc.toml do not keep, or show what that would be.

    [keep] says which commits keep their whole state, [thin] which keep their adapter and give up
    their moments; the rest gives up both, and its data. The heads of branches, snapshots, tags,
    pins, what `mvc undo` can take back and what no remote has are never touched. What goes rests
    in the trash for some days.

    \b
    Examples:
      mvc gc --keep-daily 30 --thin-within 7d
      mvc gc --apply --remote origin
      mvc gc --restore
    """
    from mvc.errors import UsageError
    from mvc.ops import gc
    from mvc.render import gc as told
    from mvc.render.progress import progress

    if empty_trash and not apply:
        raise UsageError("--empty-trash deletes for good", "add --apply")
    if back is not None and (apply or remotes):
        raise UsageError("--restore is the way back", "run `mvc gc --restore` without other flags")
    layout, display = here(), progress()
    try:
        if back is not None:
            restored = gc.restore(layout, back or None, progress=display)
        else:
            result = gc.gc(
                layout,
                apply=apply,
                remotes=remotes,
                settings=_settings(layout, rules),
                unpushed=unpushed,
                empty_trash=empty_trash,
                own_cache=own_cache,
                progress=display,
            )
    finally:
        display.stop()
    if json_:
        write(restored if back is not None else result)
        return
    from mvc.render import console

    if back is not None:
        console.show(*told.restored(restored))
    else:
        console.show(*told.gc(result, verbose=verbose))


def _settings(layout: Layout, rules: dict[str, Any]) -> Settings:
    """mvc.toml with the rules that were given as flags."""
    from mvc.store import config

    settings = config.load(layout)
    for table in ("keep", "thin"):
        given = {
            name.removeprefix(f"{table}_"): list(value) if isinstance(value, tuple) else value
            for name, value in rules.items()
            if name.startswith(table) and value is not None and value != ()
        }
        changed = replace(getattr(settings, table), **given)
        settings = replace(settings, **{table: changed})
    return settings
