"""`mvc undo`: takes back the last operation, or a named one; itself an operation like any other.

An operation can be taken back while the refs that it moved are where it left them. So the last
one always can, and an older one when nothing later stands on it.
"""

from __future__ import annotations

from mvc.errors import RepoError
from mvc.operations import Logged, Move, Operation, UndoResult
from mvc.ops import given_up
from mvc.ops.checkout import refuse_dirty
from mvc.ops.ops import logged
from mvc.ops.verify import require_trusted
from mvc.store import collected, git, history, layout, oplog, remotes, tracked, trash, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, Progress

_HEADS = "refs/heads/"
_FINAL = {"remote", "restored", "trash", "deleted"}


def undo(at: Layout, name: str | None = None, *, progress: Progress = SILENT) -> UndoResult:
    """Bring refs, HEAD and the workspace back to before an operation.

    What it takes back stays in git (`refs/undone/`), and undoing the undo brings it again.

    Args:
        at: The model repo.
        name: The beginning of an operation's id, as `mvc ops` lists it; by default the last.
        progress: Hears of phases and notes.

    Raises:
        RepoError: there is no such operation, it is none that can be taken back, something later
            stands on it, or the workspace holds what is stored nowhere else.
        LockHeld: it trained or moved HEAD, and `mvc watch` trains on this repo.
        ObjectMissing: the state before it is neither here nor on a remote; nothing was changed.
    """
    with Lock(at, "mvc undo"):
        _recover(at, progress)
        chosen = oplog.find(at, name)
    _refuse_final(at, chosen)
    command = f"mvc undo {chosen.id}"
    if its := chosen.extra.get("trash"):
        return _restore(at, chosen, its, command, progress)
    moves_line = chosen.head[0] != chosen.head[1] or any(r.startswith(_HEADS) for r in chosen.refs)
    with Lock(at, command, moves=moves_line):
        _recover(at, progress)
        moves, ref, commit = _goal(at, chosen)
        here = tracked.commit_of(at.root, "HEAD")
        whole = True
        if commit != here:
            refuse_dirty(at)
            require_trusted(at, commit)
            whole = given_up.bring(at, commit, progress, thin=True)
            progress.stop()
        shared = _elsewhere(at, moves)
        num_files = workspace.retrace(at, moves, ref, commit, chosen.id, partial=not whole)
        if not whole:
            told = given_up.refusal(at, commit, "thin")
            progress.note(f"{told.message}; to train on, {told.hint}")
        if shared:
            progress.note(
                f"{shared} has it: a pull brings it back; `mvc rollback` and a push take it back "
                "for everybody"
            )
        _remote_too(at, chosen, progress, keep=bool(shared))
        if here and commit != here and _config(at, here) != _config(at, commit):
            progress.note(f"mvc.toml is as it was before, too; `git show {here[:10]}:mvc.toml`")
        return UndoResult(
            undone=chosen,
            made=_made(at, chosen),
            commit=history.commit(at.root),
            branch=workspace.head(at.root)[0],
            num_files_changed=num_files,
        )


def _remote_too(at: Layout, chosen: Operation, progress: Progress, *, keep: bool) -> None:
    """Let the half of a remote that is this machine's own go with the one that was committed.

    With `keep` it stays: it has the commit by now, and is the way back to it.
    """
    verb, _, name = chosen.command.removeprefix("mvc remote ").partition(" ")
    if not chosen.command.startswith("mvc remote ") or "undoes" in chosen.extra:
        return
    again = f"`mvc remote add {name} --git URL --data URL`"
    if verb == "remove":
        progress.note(f"clones know remote {name} again; for this machine, {again}")
    elif keep:
        progress.note(f"remote {name} stays for this machine: `mvc remote remove {name}`")
    elif verb == "add" and any(each.name == name for each in remotes.listing(at)):
        remotes.remove(at, name, levels=("local",))
        progress.note(f"remote {name} is gone from this machine, too; {again} sets it again")


def _recover(at: Layout, progress: Progress) -> None:
    if done := workspace.recover(at):
        progress.note(done)


def _config(at: Layout, commit: str) -> bytes | None:
    return tracked.blob(at.root, commit, layout.CONFIG)


def _made(at: Layout, undone: Operation) -> Logged:
    """The operation that has just taken another back."""
    found = (each for each in oplog.entries(at) if each.extra.get("undoes") == undone.id)
    return logged(at, [next(found)])[0]


def _refuse_final(at: Layout, chosen: Operation) -> None:
    """Raise for what no later operation can take back."""
    told = f"{chosen.id} (`{chosen.command}`)"
    before = _before(at, chosen)
    more = f"; `mvc undo {before.id}` takes back what came before it, here" if before else ""
    if remote := chosen.extra.get("remote"):
        raise RepoError(
            f"{told} cannot be taken back: others may have what {remote} got",
            f"`mvc rollback REV` and another push take it back for everybody{more}",
        )
    if "restored" in chosen.extra:
        raise RepoError(
            f"{told} brought back what a gc had deleted",
            f"`mvc gc --apply` deletes it again{more}",
        )
    if "deleted" in chosen.extra and "trash" not in chosen.extra:
        remote = chosen.extra["deleted"]
        raise RepoError(
            f"{told} cannot be taken back: what it deleted on {remote} rests in no trash",
            f"`mvc push --all {remote}` sends there what is here{more}",
        )
    its = chosen.extra.get("trash")
    if its and all(each.id != its for each in trash.listing(at)):
        raise RepoError(
            f"{told} cannot be taken back: its trash {its} was emptied, or brought back",
            more.removeprefix("; ") or "`mvc log` tells what is left",
        )
    if chosen.commit[0] is None:
        raise RepoError(
            f"{told} is where this repo begins: nothing is before it",
            "`mvc log` shows its history; to be rid of it, delete its folder",
        )


def _before(at: Layout, chosen: Operation) -> Operation | None:
    """The operation before this one."""
    found = oplog.entries(at)
    next((each for each in found if each.id == chosen.id), None)
    return next((each for each in found if not each.extra.keys() & _FINAL), None)


def _goal(at: Layout, chosen: Operation) -> tuple[dict[str, Move], str, str]:
    """Which refs move back, the branch that HEAD then names (empty: none), and its commit.

    Raises:
        RepoError: they are no longer where the operation left them.
    """
    root = at.root
    head, here = tracked.head_name(root), tracked.commit_of(root, "HEAD")
    moves: dict[str, Move] = {}
    for ref, (before, after) in chosen.refs.items():
        if before == after:
            continue
        if git.try_read(root, "rev-parse", "-q", "--verify", ref) != after:
            raise _stood_on(at, chosen, ref)
        moves[ref] = (after, before)
    target = head
    if chosen.head[0] != chosen.head[1]:
        if head == chosen.head[1] and here == chosen.commit[1]:
            target = chosen.head[0]
        elif not moves:
            raise _stood_on(at, chosen, "HEAD")
    if not target.startswith(_HEADS):
        return moves, "", target
    there = moves[target][1] if target in moves else tracked.commit_of(root, target)
    if there is None:
        branch = target.removeprefix(_HEADS)
        raise RepoError(
            f"HEAD would be on branch {branch}, which is then not there",
            "`mvc checkout main` (or another branch) first, then undo",
        )
    return moves, target, there


def _stood_on(at: Layout, chosen: Operation, ref: str) -> RepoError:
    """The error for a ref that moved since, with what moved it."""
    name = ref.removeprefix(_HEADS).removeprefix("refs/tags/")
    told = f"{chosen.id} (`{chosen.command}`) cannot be taken back: {name} moved since"
    now = git.try_read(at.root, "rev-parse", "-q", "--verify", ref)
    for later in oplog.entries(at):
        if later.id == chosen.id:
            break
        if ref == "HEAD":
            ends = later.commit[1] if any(a != b for a, b in (later.head, later.commit)) else None
        else:
            ends = later.refs.get(ref, (None, ""))[1]
        if ends == "":
            continue
        if ends == now:
            return RepoError(f"{told}, by `{later.command}`", f"`mvc undo {later.id}` first")
        break
    return RepoError(
        f"{told}, by something other than mvc",
        f"`git reflog show {name}` tells by what; `mvc rollback REV` brings a state back any time",
    )


def _elsewhere(at: Layout, moves: dict[str, Move]) -> str:
    """A remote's branch that has what goes, or nothing."""
    for ref, (now, _) in moves.items():
        if ref.startswith(_HEADS) and now:
            form = "--format=%(refname:strip=2)"
            told = git.read(at.root, "for-each-ref", form, f"--contains={now}", "refs/remotes")
            if told:
                return git.lines(told)[0]
    return ""


def _restore(
    at: Layout, chosen: Operation, its: str, command: str, progress: Progress
) -> UndoResult:
    """Take back a gc."""
    from mvc.ops import gc

    found = gc.restore(at, its, progress=progress, undoes=chosen.id, command=command)
    with Lock(at, command, gc.WAIT_S):
        return UndoResult(
            undone=chosen,
            made=_made(at, chosen),
            commit=history.commit(at.root),
            branch=workspace.head(at.root)[0],
            num_restored=found.num_objects,
            lacks={
                remote: len(collected.read(at, remote))
                for remote in chosen.extra.get("deleted", "").split()
            },
        )
