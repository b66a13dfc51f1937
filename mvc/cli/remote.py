"""`mvc remote`, `mvc remote add`, `mvc remote place`, `mvc remote remove`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mvc.cli.context import as_json, here, write

endpoint_option = click.option(
    "--endpoint", metavar="URL", help="The server of an S3-compatible store."
)
options_option = click.option(
    "--option",
    "options",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option of DVC's for that protocol; secrets stay on this machine.",
)


def parsed(options: Sequence[str], endpoint: str | None) -> dict[str, str]:
    """`--option KEY=VALUE` and `--endpoint` as DVC's options.

    Raises:
        UsageError: an option holds no `=`; its text, that may be a secret, is not repeated.
    """
    from mvc.errors import UsageError

    found = {"endpointurl": endpoint} if endpoint else {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UsageError(
                "an --option is not KEY=VALUE", "write for example `--option region=eu-central-1`"
            )
        found[key.strip()] = value
    return found


@click.group(
    "remote",
    invoke_without_command=True,
    short_help="Where this repo is shared: list, add, place, remove",
)
@as_json
@click.pass_context
def command(ctx: click.Context, json_: bool) -> None:
    """List the remotes: each is a git remote and a DVC remote under one name.

    \b
    Examples:
      mvc remote
      mvc remote add origin --git git@example.org:team/model.git --data s3://bucket/model
    """
    if ctx.invoked_subcommand is not None:
        return
    from mvc.ops import remote

    found = remote.remote(here())
    if json_:
        write(found)
        return
    from mvc.render import console, share

    console.show(*share.remotes(found))


@command.command("add", short_help="Set a git remote and a DVC remote under one name.")
@click.argument("name", metavar="NAME")
@click.option("--git", "git_url", metavar="URL", required=True, help="What `git clone` takes.")
@click.option(
    "--data",
    "data_url",
    metavar="URL",
    required=True,
    help="Where objects go: a folder, ssh://, s3://, gs://, azure://, webdavs://, https://.",
)
@endpoint_option
@options_option
@as_json
def add(
    name: str,
    git_url: str,
    data_url: str,
    endpoint: str | None,
    options: tuple[str, ...],
    json_: bool,
) -> None:
    """Set a git remote and a DVC remote under one name, and commit the public half.

    Secrets (passwords, keys, tokens) go to `.dvc/config.local`, which is never tracked.

    \b
    Examples:
      mvc remote add origin --git /mnt/share/model.git --data /mnt/share/objects
      mvc remote add origin --git git@example.org:team/model.git --data s3://bucket/model
    """
    from mvc.ops import remote

    made = remote.add(here(), name, git_url, data_url, parsed(options, endpoint))
    if json_:
        write(made)
        return
    from mvc.render import console, share

    console.show(*share.added(made))


@command.command("place", short_help="Where this machine looks for a remote's objects.")
@click.argument("name", metavar="NAME")
@click.option("--data", "data_url", metavar="URL", required=True, help="Where the objects are.")
@endpoint_option
@options_option
@as_json
def place(
    name: str, data_url: str, endpoint: str | None, options: tuple[str, ...], json_: bool
) -> None:
    """Let this machine look for the objects of remote NAME at a URL, whatever the repo records.

    A remote stays for a machine where it was when it was first used, so that a pulled commit
    cannot lead keys to another server. This is how a new place is accepted.

    \b
    Example:
      mvc remote place origin --data s3://new-bucket/model
    """
    from mvc.ops import remote

    made = remote.place(here(), name, data_url, parsed(options, endpoint))
    if json_:
        write(made)
        return
    from mvc.render import console, share

    console.show(*share.placed(made))


@command.command("remove", short_help="Forget a remote; what is stored there stays there.")
@click.argument("name", metavar="NAME")
@as_json
def remove(name: str, json_: bool) -> None:
    """Forget the remote NAME, here and for later clones; what is stored there stays there.

    \b
    Example:
      mvc remote remove origin
    """
    from mvc.ops import remote

    gone = remote.remove(here(), name)
    if json_:
        write(gone)
        return
    from mvc.render import console, share

    console.show(*share.removed(gone))
