"""`mvc train`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mvc.cli.context import as_json, here, write


@click.command("train", short_help="Train a batch and commit it, one commit a file.")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--again", is_flag=True, help="Train a file that this line already has once more.")
@click.option("-m", "--message", help="Words of yours for the commit.")
@click.option(
    "--nproc",
    type=click.IntRange(min=1),
    help="Training processes on this machine alone; by default as [launch] in mvc.toml says.",
)
@click.option(
    "--node-rank",
    type=click.IntRange(min=0),
    envvar="MVC_NODE_RANK",
    help="Which machine of [launch] this is; 0 has the repo.  [env: MVC_NODE_RANK]",
)
@click.option("--restart", is_flag=True, help="Begin an interrupted batch anew.")
@click.option("--dry-run", is_flag=True, help="Report rows, tokens and steps; change nothing.")
@click.option(
    "--dump",
    metavar="OUT.jsonl",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --dry-run: write the rows as they would be trained, in order.",
)
@as_json
def command(
    files: tuple[Path, ...],
    again: bool,
    message: str | None,
    nproc: int | None,
    node_rank: int | None,
    restart: bool,
    dry_run: bool,
    dump: Path | None,
    json_: bool,
) -> None:
    """Train each FILE on top of the last batch; each becomes one commit.

    A file that this line already has is answered with its commit. Ctrl-C stops after the step in
    progress; the same command goes on from there.

    \b
    Examples:
      mvc train inbox/monday.jsonl
      mvc train monday.jsonl --dry-run --dump rows.jsonl
    """
    if dump is not None and not dry_run:
        from mvc.errors import UsageError

        raise UsageError(
            "--dump needs --dry-run", "run `mvc train FILE --dry-run --dump OUT.jsonl`"
        )
    if node_rank is not None:
        os.environ["MVC_NODE_RANK"] = str(node_rank)  # also where srun has numbers of its own
    if dry_run:
        _plan(files, nproc, dump, json_)
    else:
        _train(files, again, message, nproc, node_rank, restart, json_)


def _plan(files: tuple[Path, ...], nproc: int | None, dump: Path | None, json_: bool) -> None:
    from mvc.ops import train
    from mvc.render.progress import progress

    display = progress()
    try:
        plans = train.dry_run(here(), files, dump=dump, nproc=nproc, progress=display)
    finally:
        display.stop()
    if json_:
        from mvc.render import document

        write([document.plan(plan) for plan in plans])
        return
    from mvc.render import console
    from mvc.render import plan as told

    for plan in plans:
        console.show(*told.plan(plan))


def _train(
    files: tuple[Path, ...],
    again: bool,
    message: str | None,
    nproc: int | None,
    node_rank: int | None,
    restart: bool,
    json_: bool,
) -> None:
    from mvc.cli.stopping import graceful
    from mvc.errors import MvcError
    from mvc.ops import train
    from mvc.render import console, document
    from mvc.render import result as told
    from mvc.render.progress import progress

    if train.follows():  # a launcher's other ranks have no repo, and nothing to say
        with graceful() as should_stop:
            train.follow(Path.cwd(), should_stop)
        return
    try:
        layout = here()
    except MvcError as error:
        train.refuse(error)
    display = progress()
    done = []
    try:
        with graceful() as should_stop:
            for result in train.train(
                layout,
                files,
                again=again,
                message=message,
                nproc=nproc,
                node_rank=node_rank or 0,
                restart=restart,
                progress=display,
                should_stop=should_stop,
            ):
                display.stop()
                done.append(document.batch(result))
                if not json_:
                    console.show(*told.batch(result))
    finally:
        display.stop()
        if json_:
            # Also after an error: what was committed before it is committed.
            write(done)
