"""`mvc watch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvc.cli.context import as_json, here, now, write

if TYPE_CHECKING:
    from mvc.store.layout import Layout
    from mvc.watching import WatchStatus


@click.command("watch", short_help="Train whatever arrives in a folder, day and night.")
@click.argument("inbox", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--once", is_flag=True, help="End when the inbox is empty.")
@click.option(
    "--metrics",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help="Serve figures for Prometheus on this port of the loopback.",
)
@click.option("--status", is_flag=True, help="Tell what the daemon does; exit code 1: not well.")
@click.option("--pause", is_flag=True, help="Let others train, after the batch in progress.")
@click.option("--resume", is_flag=True, help="Go on after --pause.")
@click.option("--install", is_flag=True, help="Write a systemd user unit, and print it.")
@click.option("--print", "print_", is_flag=True, help="Print that unit and write nothing.")
@as_json
def command(
    inbox: Path | None,
    once: bool,
    metrics: int | None,
    status: bool,
    pause: bool,
    resume: bool,
    install: bool,
    print_: bool,
    json_: bool,
) -> None:
    """Train each file that arrives in INBOX, in order, and pin a snapshot a day.

    A file that is trained moves to INBOX/done/, one that cannot be a batch to INBOX/failed/ with
    a text that says why. Ctrl-C or SIGTERM stops after the step in progress; SIGHUP tries again at
    once what is waited for. The log is logs/daemon_YYYYMMDD.log.

    \b
    Examples:
      mvc watch /data/inbox
      mvc watch --status
      mvc watch /data/inbox --install
    """
    from mvc.errors import UsageError

    asked = [
        flag for flag, on in (("--status", status), ("--pause", pause), ("--resume", resume)) if on
    ]
    running = once or metrics is not None or install or print_
    if len(asked) > 1 or (asked and running):
        raise UsageError(
            f"{asked[0]} goes with no other flag but --json", f"run `mvc watch {asked[0]}`"
        )
    if json_ and not status:
        raise UsageError("--json needs --status", "run `mvc watch --status --json`")
    if asked and inbox is not None:
        raise UsageError(f"{asked[0]} needs no INBOX", f"run `mvc watch {asked[0]}`")
    if once and (install or print_):
        raise UsageError("a unit runs for good, without --once", "leave --once out")
    if status:
        _status(here(), json_)
    elif pause:
        _pause(here())
    elif resume:
        _resume(here())
    elif inbox is None:
        raise UsageError(
            "no INBOX is given", "name the folder that files arrive in: `mvc watch INBOX`"
        )
    elif install or print_:
        _install(here(), inbox.absolute(), metrics, only_print=print_)
    else:
        _watch(here(), inbox.absolute(), once, metrics)


def _status(layout: Layout, json_: bool) -> None:
    from mvc.daemon import status

    present = now(layout)
    health = status.health(layout, present.astimezone())
    if json_:
        from mvc.render import document

        write(document.watch(health))
    else:
        from mvc.render import console
        from mvc.render import watch as told

        console.show(*told.status(health, now=present))
    if health.trouble:
        raise click.exceptions.Exit(1)


def _pause(layout: Layout) -> None:
    from mvc.daemon import control
    from mvc.render import console
    from mvc.render import watch as told
    from mvc.render.progress import progress

    display = progress()
    try:
        daemon = control.pause(layout, progress=display)
    finally:
        display.stop()
    console.show(*told.paused(daemon))


def _resume(layout: Layout) -> None:
    from mvc.daemon import control
    from mvc.render import console
    from mvc.render import watch as told

    console.show(*told.resumed(control.resume(layout)))


def _install(layout: Layout, inbox: Path, metrics: int | None, *, only_print: bool) -> None:
    from mvc.daemon import unit

    made = unit.unit(layout, inbox, metrics)
    click.echo(made.text, nl=False)
    if only_print:
        return
    unit.install(made)
    click.echo(f"\nWritten to {made.path}; start it with\n")
    for line in made.commands:
        click.echo(f"  {line}")


def _watch(layout: Layout, inbox: Path, once: bool, metrics: int | None) -> None:
    from contextlib import ExitStack, suppress

    from mvc.cli.stopping import graceful, woken
    from mvc.daemon import loop
    from mvc.render import console
    from mvc.render import watch as told
    from mvc.render.progress import progress

    last: list[WatchStatus] = []
    with ExitStack() as stack:
        should_stop = stack.enter_context(graceful())
        wake = stack.enter_context(woken())
        screen = None
        if told.fits(sys.stderr):
            screen = stack.enter_context(told.Screen(sys.stderr, lambda: now(layout)))

        def on_status(status: WatchStatus) -> None:
            last[:] = [status]
            if screen is not None:
                screen.show(status)

        loop.run(
            layout,
            inbox,
            once=once,
            progress=None if screen else progress(),
            metrics_port=metrics,
            should_stop=should_stop,
            wake=wake,
            on_status=on_status,
        )
    for status in last:
        with suppress(OSError):  # who started it may be gone
            console.show(*told.ended(status))
