"""The command `mvc`: the group of verbs, loaded when called, and the one error boundary.

Owns exit codes (DESIGN.md, section 5) and how errors are told. Imports click and nothing heavier,
so that `mvc --help` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import keyword
import os
import sys
import warnings
from collections.abc import Sequence

import click

from mvc import __version__
from mvc.errors import MvcError

VERBS = {
    "init": "make a model repo",
    "import": "make a model repo of what a script or a Trainer left",
    "train": "train a batch and commit it, one commit a file",
    "status": "where HEAD is, and whether the state matches it",
    "log": "the loss history, newest first",
    "show": "one commit whole",
    "snapshot": "pin today",
    "snapshots": "list the pinned days",
    "checkout": "put a revision's state into current_model/",
    "rollback": "a new commit with an older revision's state",
    "export": "a plain copy of a revision's state, or its merged model",
    "undo": "take back the last operation, or a named one",
    "ops": "what changed this repo, newest first",
    "watch": "train whatever arrives in a folder, day and night",
    "remote": "where this repo is shared: list, add, place, remove",
    "push": "send the branch, its snapshots and their objects",
    "pull": "bring the branch forward to the remote's",
    "fetch": "bring what the remote has, and move nothing",
    "clone": "a model repo from its remote, with the newest state",
    "verify": "check the signatures of commits and snapshots",
    "trust": "what this repo would run on this machine, and whether it may",
    "gc": "let go of states by calendar and by part",
    "pin": "keep a revision whole, whatever the policy says",
    "du": "where the bytes are",
    "fsck": "check every stored object against its hash",
    "demo": "see it all work on a small model, in a few minutes",
}
"""The verbs in the order a newcomer meets them; `mvc.cli.VERB` holds each as `command`."""

DONE, INTERRUPTED, BUG = 0, 130, 255

EPILOG = """\b
First steps:
  mvc demo
  mvc init my-model --base smollm2-135m
  cd my-model && mvc train ../monday.jsonl && mvc log

\b
Shell completion (bash; zsh_source and fish_source work alike):
  eval "$(_MVC_COMPLETE=bash_source mvc)"
"""


class Verbs(click.Group):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of `VERBS`."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, or None for a name that is no verb."""
        if cmd_name not in VERBS:
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name  # PEP 8's `import_`
        command = importlib.import_module(f"mvc.cli.{module}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; an unknown one is answered with the nearest."""
        if args[0] not in VERBS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, 1, cutoff=0.5)
            error = click.UsageError(f"there is no command {args[0]!r}", ctx)
            error.__notes__ = [f"did you mean `mvc {near[0]}`?"] if near else []
            raise error
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-C",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Run as if started in DIR.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="mvc", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, directory: str | None, debug: bool) -> None:
    """Git for models that never stop learning.

    Every data file is a batch, every batch is trained on top of the last one and becomes a commit
    that can be brought back.
    """
    if directory is not None:
        ctx.with_resource(contextlib.chdir(directory))


def main(args: Sequence[str] | None = None) -> None:
    """Run `mvc` and end the process with its exit code."""
    # At its end Python looks for cycles in all that was imported, which the system frees anyway:
    # 0.03 s of a pull, 0.8 s once torch and transformers are there. What must be undone at the end
    # is undone by `with` or by atexit, never by a finalizer.
    atexit.register(gc.freeze)
    status = run(list(sys.argv[1:] if args is None else args))
    if {"mvc.cli.stopping", "mvc.importing"} & sys.modules.keys():
        from mvc.cli.stopping import leave

        leave(status)
    sys.exit(status)


def run(args: list[str]) -> int:
    """Run `mvc ARGS`; the exit code.

    Every exception ends here: an MvcError as Error, Caused by and Hint, a wrong use likewise, an
    interruption with 130, a reader that went away (`mvc log | head`) without a word, anything else
    as a bug of ours.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show an arrow must not end the command.
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in args[: _verb_index(args)]
    if not debug and not sys.warnoptions:
        # What libraries tell their developers is no news for who trains a model.
        warnings.simplefilter("ignore")
    try:
        status = cli.main(args, prog_name="mvc", standalone_mode=False)
        return status if isinstance(status, int) else DONE
    except (click.Abort, KeyboardInterrupt) as error:
        tell("interrupted", hint="run the same command again: it goes on or starts over, as it can")
        return _end(error, INTERRUPTED, debug)
    except MvcError as error:
        tell(error.message, causes=causes(error), hint=error.hint)
        return _end(error, error.exit_code, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        tell(error.format_message().rstrip("."), hint=_usage_hint(error))
        return _end(error, error.exit_code, debug)
    except SystemExit as error:
        # Shell completion ends the process, and so do click and rich when stdout's reader is gone.
        return error.code if isinstance(error.code, int) else DONE
    except Exception as error:
        tell(
            f"{type(error).__name__}: {error}",
            causes=causes(error),
            hint="this is a bug of ours; "
            + ("please report the traceback below" if debug else _rerun(args)),
        )
        return _end(error, BUG, debug)


def tell(message: str, *, causes: Sequence[str] = (), hint: str) -> None:
    """Write an error to stderr: what is wrong, why, and the next command to run."""
    lines = [("Error:", "red", message)]
    lines += [("Caused by:", "yellow", cause) for cause in causes]
    lines += [("Hint:", "cyan", hint)]
    color = False if os.environ.get("NO_COLOR") else None
    for label, style, text in lines:
        safe = "".join(
            c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
        )
        click.echo(f"{click.style(label, fg=style, bold=True)} {safe}", err=True, color=color)


def causes(error: BaseException) -> list[str]:
    """The chain of `raise ... from`, one line each, outermost first."""
    found: list[str] = []
    cause = error.__cause__
    while cause is not None and len(found) < 8:
        first = (str(cause).strip().splitlines() or [""])[0]
        # A floor may rewrap an error for its hint only; saying it twice explains nothing.
        if str(cause) != str(error):
            found.append(f"{type(cause).__name__}: {first}" if first else type(cause).__name__)
        cause = cause.__cause__
    return found


def _usage_hint(error: click.ClickException) -> str:
    notes = getattr(error, "__notes__", [])
    ctx = getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "mvc"
    return " ".join([*notes, f"`{command} --help` shows what is possible"])


def _rerun(args: Sequence[str]) -> str:
    import shlex

    return f"run `mvc --debug {shlex.join(args)}` for the traceback, and please report it"


def _verb_index(args: Sequence[str]) -> int:
    return next((i for i, arg in enumerate(args) if arg in VERBS), len(args))


def _end(error: BaseException, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    return status
