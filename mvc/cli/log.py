"""`mvc log`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mvc.cli.context import as_json, here, lookup, now

if TYPE_CHECKING:
    from mvc.store.layout import Layout
    from mvc.types import Commit


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
    steps, a learning rate of 0. What a later rollback undid is dim and says (rolled back); of a
    state that `mvc gc` thinned or took it says (adapter only) or (state gone).

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
    # One more than is shown: the oldest one's jump is judged by the batch before it.
    known = log.log(layout, rev, limit and limit + 1)
    commits, find = known[:limit], lookup(layout, known)
    if json_:
        from mvc.render import document
        from mvc.render.marks import marks

        gone = _rolled_back(layout, commits)
        left = log.left(layout, commits)
        rows = (
            document.logged(
                each,
                marks(each, find),
                rolled_back=each.commit in gone,
                state=left.get(each.commit, "whole"),
            )
            for each in commits
        )
        click.echo(document.listing(rows))
        return
    from mvc.render import console
    from mvc.render import log as told

    # The tree of any other commit still holds the loss.csv of the batch before it.
    batches = [commit for commit in commits if commit.kind in ("batch", "import")]
    if csv:
        for line in told.csv(log.curves(layout, batches)):
            click.echo(line)
    elif plot:
        from mvc.render.plot import plot as draw

        picture = draw(
            log.curves(layout, batches),
            width=console.width() or 80,
            lookup=find,
            rollbacks=[commit for commit in commits if commit.kind == "rollback"],
            gone=_rolled_back(layout, commits),
        )
        console.show(picture)
    else:
        lines = told.log(
            commits,
            now=now(layout),
            width=console.width(),
            lookup=find,
            gone=_rolled_back(layout, commits),
            left=log.left(layout, commits),
        )
        console.show(*lines)


def _rolled_back(layout: Layout, commits: Sequence[Commit]) -> frozenset[str]:
    """`marks.rolled_back`; asks git only where a rollback brought back what `commits` lack."""
    from mvc.errors import MvcError
    from mvc.render import marks
    from mvc.store import history

    pool = list(commits)
    known = {commit.commit for commit in commits}
    for commit in pool:  # it grows: another line may hold rollbacks too
        if commit.rollback_to and commit.rollback_to not in known:
            try:  # nothing where the target is merely older than a limit shows
                span = f"{commits[0].commit}..{commit.rollback_to}"
                found = history.log(layout.root, span)
            except MvcError:
                continue
            pool += (each for each in found if each.commit not in known)
            known.update(each.commit for each in found)
    return marks.rolled_back(commits, pool)
