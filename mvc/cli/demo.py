"""`mvc demo`: the whole of mvc on a real model, every command shown as a person would type it.

Owns the demo's data and its script; every step goes through the same commands as a user's.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

DAYS = ("monday", "tuesday", "wednesday")
ROWS = 96
"""Rows a batch: 12 steps of 8 rows, about half a minute on 2 cores."""
ROW_CHARACTERS = (160, 360)
"""Shortest and longest row: some 40 to 90 tokens of English."""
SETTINGS = (
    "lora.r=8",
    "lora.alpha=16",
    "train.learning_rate=1e-3",
    "train.warmup_steps=4",
    "train.micro_batch_size=8",
    "train.max_length=256",
    "train.packing=false",
)


@click.command("demo", short_help="See it all work on a small model.")
@click.argument("directory", metavar="[DIR]", default="demo-model", type=click.Path(path_type=Path))
def command(directory: Path) -> None:
    """Make a model repo in DIR (demo-model by default), train three batches, and go back.

    The model is SmolLM2-135M from an installed package, the text is Python's own documentation:
    nothing is downloaded. Takes a few minutes on two cores.

    \b
    Example:
      mvc demo
    """
    if directory.exists():
        from mvc.errors import RepoError

        raise RepoError(
            f"{directory} exists already",
            f"name a new folder: `mvc demo {directory}-2`, or remove that one",
        )
    inbox = directory.absolute() / "inbox"
    _say("A model repo is a git repository with a model's whole state in it.")
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    _mvc("init", str(directory), "--base", "smollm2-135m", *sets)

    _say("Three days of text, from Python's documentation; git need not see them.")
    _type(f"cd {shlex.quote(str(directory))}")
    with contextlib.chdir(directory):
        _fill(inbox)
        _type("head -c 200 inbox/monday.jsonl")
        click.echo((inbox / "monday.jsonl").read_text(encoding="utf-8")[:200] + "…")
        _tour(directory)


def _tour(directory: Path) -> None:
    from mvc.ops import snapshot, status
    from mvc.store.layout import find

    layout = find(Path.cwd())
    branch = status.status(layout).branch or "main"

    _say("Every file is a batch, every batch becomes a commit, on top of the last.")
    _mvc("train", "inbox/monday.jsonl", "inbox/tuesday.jsonl")
    _mvc("log")

    _say("The model is good today: pin it.")
    _mvc("snapshot", "-m", "two good days")
    day = snapshot.snapshots(layout)[0].day

    _say("One batch more, and the picture of the whole line.")
    _mvc("train", "inbox/wednesday.jsonl")
    _mvc("log", "--plot")

    _say("Look at the snapshot by its date, and come back.")
    _mvc("checkout", day)
    _mvc("status")
    _mvc("checkout", branch)

    _say("Wednesday was a mistake: go back to the snapshot. The history stays.")
    _mvc("rollback", day, "-m", "wednesday's data was a mistake")
    _mvc("log")

    _say("Is every stored byte what it was?")
    _mvc("fsck")

    _say(f"The model repo is in {directory}. What to try next:")
    click.echo(
        f"  cd {shlex.quote(str(directory))}\n"
        "  mvc show @2                                    one commit whole\n"
        "  mvc train inbox/wednesday.jsonl --dry-run      what a batch would be\n"
        "  mvc train inbox/wednesday.jsonl                after the rollback, once more\n"
        "  mvc checkout @1                                any batch by its number\n"
        "  ls -lh current_model/ && git log --stat        plain files, plain git underneath\n"
    )


def batches() -> Iterator[tuple[str, list[str]]]:
    """The demo's data: a day's name and its rows, the same on every run of one Python version.

    Source: `pydoc_data.topics`, the language reference as the interpreter's `help()` carries it.
    """
    from pydoc_data.topics import topics

    shortest, longest = ROW_CHARACTERS
    paragraphs = (
        " ".join(paragraph.split())
        for key in sorted(topics)
        for paragraph in topics[key].split("\n\n")
    )
    # dict, not set: topics repeat each other's paragraphs, and the order must hold.
    rows = list(dict.fromkeys(row for row in paragraphs if shortest <= len(row) <= longest))
    for i, day in enumerate(DAYS):
        yield day, rows[i :: len(DAYS)][:ROWS]


def _fill(inbox: Path) -> None:
    _type("mkdir inbox && echo inbox/ >> .git/info/exclude")
    inbox.mkdir()
    exclude = Path(".git/info/exclude")
    exclude.parent.mkdir(exist_ok=True)
    with exclude.open("a", encoding="utf-8") as file:
        file.write("inbox/\n")
    for day, rows in batches():
        lines = (json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows)
        (inbox / f"{day}.jsonl").write_text("".join(lines), encoding="utf-8")


def _say(text: str) -> None:
    click.secho(f"\n# {text}", dim=True)


def _type(line: str) -> None:
    click.secho(f"$ {line}", bold=True)


def _mvc(*args: str) -> None:
    from mvc.cli.main import cli

    _type(shlex.join(["mvc", *args]))
    status = cli.main(list(args), prog_name="mvc", standalone_mode=False)
    if isinstance(status, int) and status:
        raise click.exceptions.Exit(status)
