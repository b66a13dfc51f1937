"""`mvc log`."""

from __future__ import annotations

import click

from mvc.cli.context import as_json, here, lookup, now, write


@click.command("log", short_help="The loss history, newest first.")
@click.argument("rev", default="HEAD", metavar="[REV]")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), metavar="N", help="The newest N commits only."
)
@click.option("--plot", is_flag=True, help="Draw the loss over lifetime steps.")
@click.option("--csv", is_flag=True, help="One row a step, oldest first.")
@as_json
def command(rev: str, limit: int | None, plot: bool, csv: bool, json_: bool) -> None:
    """Show the loss history from REV back (a date, a time, @N, a branch, a hash).

    Lines with a ! tell what must not be: a loss that jumps between two batches, a batch without
    steps, a learning rate of 0.

    \b
    Examples:
      mvc log -n 10
      mvc log 2026-11-20 --plot
      mvc log --csv > loss.csv
    """
    if plot + csv + json_ > 1:
        from mvc.errors import UsageError

        raise UsageError(
            "--plot, --csv and --json are three answers", "run `mvc log` with one of them"
        )
    from mvc.ops import log

    layout = here()
    commits = log.log(layout, rev, limit)
    if json_:
        from mvc.render import document
        from mvc.render.marks import marks

        find = lookup(layout, commits)
        write([document.commit(commit, marks(commit, find)) for commit in commits])
        return
    from mvc.render import console
    from mvc.render import log as told

    # The tree of any other commit still holds the loss.csv of the batch before it.
    batches = [commit for commit in commits if commit.kind == "batch"]
    if csv:
        for line in told.csv(log.curves(layout, batches)):
            click.echo(line)
    elif plot:
        from mvc.render.plot import plot as draw

        console.show(draw(log.curves(layout, batches), width=console.width() or 80))
    else:
        lines = told.log(
            commits, now=now(layout), width=console.width(), lookup=lookup(layout, commits)
        )
        console.show(*lines)
