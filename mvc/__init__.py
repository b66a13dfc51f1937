"""mvc: Git for models that never stop learning.

The house, imports pointing down only (import-linter checks it):

    cli/      flags, one file a verb, one error boundary        click
    render/   looks: tables, bars, curves                       rich, plotext
    daemon/   `mvc watch`: queue, calendar, guards, log         watchfiles, croniter, prometheus
    ops/      what a verb means; returns types, never prints
    engine/   base models, rows, schedule, state, training      torch, transformers, peft, trl
    store/    git, DVC, files, locks, promotion, revisions      git, dvc
    types, settings, errors                                     what all floors pass on

The way of a batch: `ops/train` (which batch is this?) -> `engine/files`, `engine/rows` (read,
template, pack, order) -> `engine/train` (steps, checkpoints, a new state in .mvc/run/) ->
`store/objects` (into DVC's cache by hash) -> `store/promote` (tree, commit, and the one moment when
the branch's ref moves) -> current_model/ linked from the cache.

For scripts: `mvc.open(path)` offers the verbs; heavy packages load when a verb needs them.
"""

from mvc.version import VERSION as __version__

__all__ = ["__version__", "open"]

# Not from `typing`, nor anything else of the standard library: `python -m mvc` comes by here with
# the working directory first on its path (`__main__`).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike

    from mvc.ops.model import Model


def open(path: "str | PathLike[str]" = ".") -> "Model":
    """The model repo that holds `path`, with every verb as a method.

    What a launcher started beside the repo's owner, on other machines, needs no repo to train
    along, so one line serves all of them.

    Raises:
        RepoError: `path` is not inside a model repo.
    """
    from pathlib import Path

    from mvc.errors import RepoError
    from mvc.ops.model import Model
    from mvc.store.layout import Layout, find

    try:
        return Model(find(Path(path)))
    except RepoError:
        from mvc.ops import train

        if not train.follows():
            raise
        return Model(Layout(Path(path).absolute()))
