"""What remote, push, fetch, pull and clone say when they are done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.facts import facts
from mvc.render.log import label, subject
from mvc.sharing import CloneResult, FetchResult, PullResult, PushResult, Remote, Transfer
from mvc.types import Commit

_MOST = 20


def remotes(found: Sequence[Remote]) -> Iterator[Text]:
    """The remotes, both URLs of each; the default one is marked."""
    if not found:
        yield Text("No remotes yet: `mvc remote add NAME --git URL --data URL` sets one.")
    for remote in found:
        mark = "  default" if remote.default else ""
        yield Text.assemble((fmt.plain(remote.name), "bold"), (mark, "dim"))
        yield _urls(remote)


def added(remote: Remote) -> Iterator[Text]:
    """A remote that was set."""
    yield Text.assemble("Added remote ", (fmt.plain(remote.name), "bold"))
    yield _urls(remote)
    yield Text(f"  share this branch with `mvc push {fmt.plain(remote.name)}`", "dim")


def placed(remote: Remote) -> Iterator[Text]:
    """A remote whose objects this machine looks for elsewhere from now on."""
    yield Text.assemble("On this machine, remote ", (fmt.plain(remote.name), "bold"), " is")
    yield _urls(remote)


def removed(remote: Remote) -> Iterator[Text]:
    """A remote that was forgotten."""
    yield Text.assemble("Removed remote ", (fmt.plain(remote.name), "bold"))
    yield _urls(remote)


def _urls(remote: Remote) -> Text:
    urls = (("git", remote.git_url), ("data", remote.data_url))
    return facts((name, fmt.plain(url) if url else Text("none", "yellow")) for name, url in urls)


def push(result: PushResult) -> Iterator[Text]:
    """The commits that went, and what it took."""
    remote, branch = fmt.plain(result.remote), fmt.plain(result.branch)
    if result.behind:
        behind = fmt.count(result.behind, "commit")
        yield Text(f"Nothing to push: {remote} is {behind} ahead of {branch}")
        yield Text("  bring them with `mvc pull`", "dim")
    elif not result.commits and not result.snapshots:
        yield Text(f"{remote} has {branch} already, at {label(result.head).plain}")
    else:
        sent = fmt.count(len(result.commits), "commit")
        yield Text.assemble(f"Pushed {sent} of {branch} to {remote}, now at ", label(result.head))
    yield from _commits(result.commits)
    yield from _snapshots("with", result.snapshots, result.differing)
    if result.objects.num_objects or result.commits:
        yield _moved("sent", result.objects)


def fetch(result: FetchResult) -> Iterator[Text]:
    """What is new on the remote."""
    remote = fmt.plain(result.remote)
    if result.branch is None:
        yield Text(f"Fetched {remote}; it has no branch that HEAD is on")
    elif not result.commits:
        yield Text(f"{remote} has nothing new of {fmt.plain(result.branch)}")
    else:
        new = fmt.count(len(result.commits), "new commit")
        yield Text(f"{remote} has {new} of {fmt.plain(result.branch)}")
    yield from _commits(result.commits)
    yield from _snapshots("with", result.snapshots, result.differing)
    yield _moved("fetched", result.objects)
    if result.commits and result.ahead:
        yield Text(f"  and lacks {fmt.count(result.ahead, 'commit')} of yours", "yellow")
    if result.commits:
        yield Text("  `mvc pull` brings the branch forward", "dim")


def pull(result: PullResult) -> Iterator[Text]:
    """Where the branch is now, and what came."""
    remote, branch = fmt.plain(result.remote), fmt.plain(result.branch)
    if result.commits:
        came = fmt.count(len(result.commits), "commit")
        yield Text.assemble(f"Pulled {came} from {remote}: {branch} is at ", label(result.head))
    else:
        yield Text.assemble(f"{branch} is up to date with {remote}, at ", label(result.head))
    yield from _commits(result.commits)
    if result.kept_as:
        kept = fmt.plain(result.kept_as)
        yield Text.assemble("  your own line is branch ", (kept, "bold"))
    yield from _snapshots("with", result.snapshots, result.differing)
    yield _moved("fetched", result.objects)
    yield from _partial(result.partial)


def clone(result: CloneResult) -> Iterator[Text]:
    """A new clone."""
    yield Text.assemble("Cloned into ", (fmt.plain(str(result.root)), "bold"))
    lines: list[tuple[str, str | Text]] = [
        ("branch", Text.assemble(f"{fmt.plain(result.branch)} at ", label(result.head))),
        ("commits", f"{result.num_commits:,}"),
        ("remote", fmt.plain(result.remote)),
    ]
    if result.snapshots:
        lines.append(("snapshots", f"{len(result.snapshots):,}"))
    yield facts(lines)
    yield _moved("fetched", result.objects)
    yield from _partial(result.partial)


def _commits(commits: Sequence[Commit]) -> Iterator[Text]:
    for commit in commits[:_MOST]:
        what = fmt.plain(commit.data.name) if commit.data else subject(commit)
        yield Text.assemble("  ", label(commit), f"  {what}")
    if len(commits) > _MOST:
        yield Text(f"  and {fmt.count(len(commits) - _MOST, 'older commit')}", "dim")


def _snapshots(how: str, new: Sequence[str], differing: Sequence[str]) -> Iterator[Text]:
    if new:
        yield Text(f"  {how} {', '.join(new)}", "yellow")
    for tag in differing:
        yield Text(f"  ! {tag} is another commit there than here; each side keeps its own", "red")


def _moved(verb: str, objects: Transfer) -> Text:
    """How much travelled; what was there already is why it is not more."""
    text = f"  {fmt.count(objects.num_objects, 'object')}, {fmt.size(objects.num_bytes)} {verb}"
    there = f", {fmt.count(objects.num_present, 'object')} there already"
    return Text(text + (there if objects.num_present else ""), "dim")


def _partial(partial: bool) -> Iterator[Text]:
    if partial:
        yield Text("  only what inference needs; `mvc pull` brings the rest", "dim")
