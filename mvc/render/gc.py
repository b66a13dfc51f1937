"""What `mvc gc` says: each commit that changes, why the others stay, and the bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from mvc.keeping import LEAST, GcPlan, GcResult, GcRow, RemoteShare, Restored
from mvc.render import format as fmt
from mvc.render.log import label, subject

_WORDS = {"whole": "whole", "thin": "adapter", "absent": "nothing"}


def gc(result: GcResult, *, verbose: bool = False) -> Iterator[Text]:
    """The plan, or what was done; with `verbose` a line for each commit that stays."""
    plan, done = result.plan, result.applied
    for finding in plan.findings:
        where = f"{finding.commit[:10]} " if finding.commit else ""
        yield Text.assemble(
            ("! ", "bold red"), (where, "yellow"), f"{fmt.plain(finding.path)}: {finding.problem}"
        )
    if plan.findings:
        yield Text("  what these may name is kept, and what no commit names; `mvc fsck`", "dim")
    if not plan.policy:
        yield Text("No policy, so nothing goes: mvc.toml has no rule under [keep] or [thin]")
        yield Text("  try one: `mvc gc --keep-daily 30 --keep-within 7d`", "dim")
    for row in plan.rows:
        yield _row(row)
    yield from _kept(plan, verbose)
    for share in plan.remotes:
        yield _share(share, done)
    if plan.policy:
        yield _sum(result)
    yield from _trash(result)


def restored(result: Restored) -> Iterator[Text]:
    """What came back."""
    found = f"{fmt.count(result.num_objects, 'object')}, {fmt.size(result.num_bytes)}"
    yield Text.assemble(("Brought back ", "bold green"), f"{found} from trash {result.trash}")


def _row(row: GcRow) -> Text:
    commit = row.commit
    what = fmt.plain(commit.data.name) if commit.data else subject(commit)
    why = f"  ({', '.join(map(fmt.plain, row.reasons))})" if row.reasons else ""
    return Text.assemble(
        label(commit),
        f"  {commit.time:%Y-%m-%d %H:%M}  {fmt.shorten(what, 30)}  ",
        f"{_WORDS[row.before]} → {_WORDS[row.after]}",
        (f"  -{fmt.size(row.num_bytes)}", "bold"),
        (why, "dim"),
    )


def _kept(plan: GcPlan, verbose: bool) -> Iterator[Text]:
    if verbose:
        for each in plan.kept:
            why = ", ".join(map(fmt.plain, each.reasons))
            yield Text.assemble(
                "keep ", label(each.commit), f"  {_WORDS[each.state]}  ", (why, "dim")
            )
    for state in ("whole", "thin") if plan.policy else ():
        kept = [each for each in plan.kept if each.state == state]
        if not kept:
            continue
        # Heads, days and tags by their kind: a year of snapshots is one word.
        counted = Counter(kind for each in kept for kind in dict.fromkeys(map(_kind, each.reasons)))
        why = ", ".join(f"{kind} {number:,}" for kind, number in counted.most_common())
        what = "whole" if state == "whole" else "with the adapter alone"
        less = sum(LEAST.index(each.here) < LEAST.index(each.state) for each in kept)
        lacks = f", {less:,} of them with less than that on this machine" if less else ""
        count = f"{fmt.count(len(kept), 'commit')}{lacks}"
        yield Text.assemble(f"Kept {what}: {count}", (f"  {why}", "dim"))


def _kind(reason: str) -> str:
    first = reason.split(" ")[0]
    return first if first in ("branch", "snapshot", "tag", "undo") else reason


def _share(share: RemoteShare, done: bool) -> Text:
    verb = "Deleted" if done else "Would delete"
    found = f"{fmt.count(share.num_objects, 'object')}, {fmt.size(share.num_bytes)}"
    text = Text(f"{verb} on {fmt.plain(share.remote)}: {found}")
    text.append(f" of {fmt.count(len(share.commits), 'commit')}")
    if share.num_unique_bytes:
        size = fmt.size(share.num_unique_bytes)
        text.append(f"; {size} of it are not on this machine, so gone for good", "bold red")
    return text


def _sum(result: GcResult) -> Text:
    plan = result.plan
    if not plan.num_objects:
        return Text("Nothing to free here")
    verb = "Let go" if result.applied else "Would let go"
    text = f": {fmt.size(plan.num_bytes)} in {fmt.count(plan.num_objects, 'object')} here"
    if plan.num_stray_bytes and not plan.findings:
        text += f", {fmt.size(plan.num_stray_bytes)} of it named by no commit"
    return Text.assemble((verb, "bold green"), text)


def _trash(result: GcResult) -> Iterator[Text]:
    plan = result.plan
    if result.trash:
        yield Text(
            f"  it rests in trash {result.trash}: `mvc gc --restore` brings it back, "
            "`mvc gc --apply --empty-trash` frees the disk now",
            "dim",
        )
    if plan.num_back:
        count = fmt.count(plan.num_back, "object")
        came = f"Brought back {count}" if result.applied else f"Would bring back {count}"
        yield Text(f"{came} from the trash, which a commit that is kept needs")
    if plan.expired:
        verb = "Emptied" if result.applied else "Would empty"
        count = fmt.count(len(plan.expired), "old trash", "old trashes")
        yield Text(f"{verb} {count}, {fmt.size(plan.num_expired_bytes)}")
    going = (
        plan.num_objects
        or plan.num_back
        or plan.expired
        or any(each.num_objects for each in plan.remotes)
    )
    if going and not result.applied:
        yield Text("  nothing was changed: `mvc gc --apply` does it", "dim")
