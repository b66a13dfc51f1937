"""Promotion: a new state becomes the new commit, both or neither (DESIGN.md, Fixed 6).

Owns the order of things: objects are in the cache already; then blobs, tree and commit are
written where nobody sees them; then the journal; then one ref moves, which is the commit point;
then the workspace is brought to it. Before that point everything can be thrown away, after it
everything can be done again. Trains nothing and decides nothing about content.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

from mvc.errors import StoreError
from mvc.operations import Move
from mvc.store import foreign, git, git_locks, objects, oplog, tracked
from mvc.store import journal as journals
from mvc.store.files import no_space, temporary
from mvc.store.journal import Journal
from mvc.store.layout import BATCH, STATE, Layout
from mvc.store.pointers import format_pointer
from mvc.types import Pointer

_NONE = "0" * 40


class NewCommit(msgspec.Struct, frozen=True):
    """A commit to make.

    `files` are tracked files by path (None: not in this commit), `pointers` the stored folders,
    `parent` the commit it follows (None: the first), `branch` the short name of the branch that
    moves (it is created at `parent` if there is none), `when` its time, with zone. `ends`: the
    folder of `.mvc/` whose batch it is and that goes with it; any other commit leaves a batch in
    progress alone. `unborn`: the repo has no commit yet and `parent` is one that nobody sees
    (`write_commit`), so that a whole history comes with this one move.
    """

    message: str
    files: dict[str, bytes | None]
    pointers: tuple[Pointer, ...]
    parent: str | None
    branch: str
    when: datetime
    ends: Literal["", "run", "flight"] = ""
    unborn: bool = False


def promote(layout: Layout, new: NewCommit, written: str | None = None) -> str:
    """Make `new` the branch's commit and the workspace's state; returns its hash.

    Its pointers' objects must be in the cache (`objects.store_folder`). What the user has staged
    is neither committed nor lost. `written` is the commit where `write_commit` made it already.

    Raises:
        ObjectMissing: an object is not in the cache; nothing was changed.
        StoreError: HEAD or the branch moved meanwhile; nothing was changed.
        DiskFull: before the commit point the old state is whole; after it the new one is, and
            the next command finishes the workspace.
    """
    root, ref = layout.root, f"refs/heads/{new.branch}"
    for pointer in new.pointers:
        objects.require(layout, pointer, None)
    was, here = tracked.commit_of(root, ref), tracked.commit_of(root, "HEAD")
    stood = None if new.unborn else new.parent
    if here != stood or was not in (None, stood):
        raise _moved(new)
    with no_space("the old state is whole"):
        commit = written or write_commit(layout, new)
        head = tracked.head_name(root)
        journal = Journal(
            op="promote",
            was=was,
            old=stood,
            new=commit,
            ref=ref,
            head=head,
            pid=os.getpid(),
            ends=new.ends,
            operation=oplog.operation(layout, {ref: (was, commit)}, (head, ref), (stood, commit)),
        )
        journals.write(layout, journal)
        try:
            subject = new.message.split("\n", 1)[0]
            git.write(root, "update-ref", "-m", f"mvc: {subject}", ref, commit, was or _NONE)
        except git.GitFailed as error:
            journals.clear(layout)
            if tracked.commit_of(root, ref) != was:
                raise _moved(new) from error
            raise
    with no_space(f"commit {commit[:10]} is recorded, the next command brings its files"):
        settle(layout, journal)
    return commit


def _moved(new: NewCommit) -> StoreError:
    return StoreError(
        f"HEAD or branch {new.branch} moved while the commit was being made; nothing was changed",
        "run `mvc status` to see where it is, then run the same command again",
    )


def write_commit(layout: Layout, new: NewCommit) -> str:
    """Write blobs, tree and commit, and return its hash; nothing refers to them yet."""
    root = layout.root
    layout.private.mkdir(exist_ok=True)
    contents = new.files | {f"{p.path}.dvc": format_pointer(p) for p in new.pointers}
    lines = []
    for path, data in contents.items():
        if data is None:
            lines.append(f"0 {_NONE}\t{path}\0")
        else:
            sha = git.write(root, "hash-object", "-w", "--stdin", stdin=data)
            lines.append(f"100644 {sha}\t{path}\0")
    # A name of its own: a git that was killed with its mvc leaves a lock beside it.
    index = temporary(layout.private)
    private = {"GIT_INDEX_FILE": str(index)}
    git.write(root, "read-tree", new.parent or "--empty", env=private)
    git.write(
        root, "update-index", "-z", "--index-info", env=private, stdin="".join(lines).encode()
    )
    tree = git.write(root, "write-tree", env=private)
    index.unlink(missing_ok=True)
    # git's own form of a time: seconds since 1970 and the zone's offset in hours and minutes
    stamp = f"{int(new.when.timestamp())} {new.when:%z}"
    dates = {"GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp}
    sign = git.try_read(root, "config", "--type=bool", "commit.gpgsign") == "true"
    args = ["commit-tree", *(["-S"] if sign else []), *(["-p", new.parent] if new.parent else [])]
    message = new.message.rstrip("\n") + "\n"
    who = git.identity(root)
    return git.write(root, *args, "-F", "-", tree, env=who | dates, stdin=message.encode())


@contextmanager
def tagged(layout: Layout, ref: str) -> Iterator[None]:
    """Log what becomes of the tag `ref` (its full name) inside, even where a kill ends it."""
    head, here = tracked.head_name(layout.root), tracked.commit_of(layout.root, "HEAD")
    was = _named(layout, [ref])[ref]
    journal = Journal(
        op="tag",
        was=was,
        old=here,
        new=here or "",
        ref=ref,
        head=head,
        pid=os.getpid(),
        operation=oplog.operation(layout, {ref: (was, None)}, (head, head), (here, here)),
    )
    journals.write(layout, journal)
    try:
        yield
    finally:
        _end_tag(layout, journal)


def _end_tag(layout: Layout, journal: Journal) -> None:
    if journal.operation is not None:
        moved = {journal.ref: (journal.was, _named(layout, [journal.ref])[journal.ref])}
        oplog.append(layout, replace(journal.operation, refs=moved))
    journals.clear(layout)


def carry_out(layout: Layout, journal: Journal, words: str) -> None:
    """Move `journal.moves` and HEAD; what is moved already is skipped.

    New values come first, then HEAD, and what goes at last: HEAD always names a commit.
    """
    root = layout.root
    _set(layout, {ref: move for ref, move in journal.moves.items() if move[1]}, words)
    target, here = journal.ref or journal.new, tracked.head_name(root)
    if here != target:
        # `git checkout -` finds its way back by these very words in the reflog
        names = (name.removeprefix("refs/heads/") for name in (here, target))
        told = ("-m", "checkout: moving from {} to {}".format(*names))
        if journal.ref:
            git.write(root, "symbolic-ref", *told, "HEAD", journal.ref)
        else:
            git.write(root, "update-ref", "--no-deref", *told, "HEAD", target)
    _set(layout, {ref: move for ref, move in journal.moves.items() if not move[1]}, words)


def _set(layout: Layout, moves: Mapping[str, Move], words: str) -> None:
    now = _named(layout, list(moves))
    lines = ""
    for ref, (before, after) in moves.items():
        if now[ref] != after:
            verb = f"update {ref} {after}" if after else f"delete {ref}"
            lines += f"{verb} {before or _NONE}\n"
    if lines:
        git.write(layout.root, "update-ref", "-m", words, "--stdin", stdin=lines.encode())


def _named(layout: Layout, refs: list[str]) -> dict[str, str | None]:
    """The objects that refs name: of a tag, the tag."""
    found: dict[str, str | None] = dict.fromkeys(refs)
    told = git.read_bytes(
        layout.root,
        *("cat-file", "--batch-check=%(objectname)"),
        stdin="".join(f"{ref}\n" for ref in refs).encode(),
    ).decode()
    for ref, line in zip(refs, git.lines(told), strict=True):
        found[ref] = None if line.endswith(" missing") else line
    return found


def settle(layout: Layout, journal: Journal) -> int:
    """Bring HEAD, tracked files and stored folders to `journal.new`; returns files linked.

    The operation is in the log after that.

    Every step that is done already is skipped, so it can be run again after a kill in any place.

    Raises:
        ObjectMissing: an object is not in the cache.
    """
    root = layout.root
    if journal.ref and tracked.head_name(root) != journal.ref:
        git.write(root, "symbolic-ref", "-m", f"mvc: {journal.op}", "HEAD", journal.ref)
    # An undo that leaves HEAD's commit leaves the workspace too, whatever the user has in it.
    count = 0
    if journal.op != "undo" or journal.old != journal.new:
        count = _bring(layout, journal)
    if journal.ends:
        shutil.rmtree(layout.private / journal.ends, ignore_errors=True)
    if journal.operation is not None:
        oplog.append(layout, journal.operation)
    journals.clear(layout)
    return count


def _bring(layout: Layout, journal: Journal) -> int:
    """Bring the workspace from `journal.old` to `journal.new`; returns files linked."""
    root = layout.root
    tracked.bring(layout, journal.old, journal.new)
    pointers = tracked.pointers_of(root, journal.new)
    link = objects.link_present if journal.partial else objects.link
    count = sum(link(layout, pointer) for pointer in pointers)
    for name in {STATE, BATCH} - {pointer.path for pointer in pointers}:
        if _held(layout, journal.old, name):
            count += objects.unlink(layout, name)
    return count


def _held(layout: Layout, commit: str | None, name: str) -> bool:
    """Whether `commit` has a stored folder `name`, so that ours is its and not the user's own."""
    return commit is not None and tracked.blob(layout.root, commit, f"{name}.dvc") is not None


def recover(layout: Layout) -> str | None:
    """Finish or drop what a killed process left; every writing command calls it under the lock.

    Returns:
        What was done, for the user, or None.

    Raises:
        RepoError: the repo tracks files where mvc keeps its own: the journal may be a stranger's.
        StoreError: the journal is damaged.
        ObjectMissing: an object that the recorded commit needs is not in the cache.
    """
    foreign.check_here(layout)
    journal = journals.read(layout)
    objects.sweep(layout)
    if journal is None:
        return None
    _break_locks(layout, journal)
    if journal.op == "tag":
        _end_tag(layout, journal)
        return None
    root = layout.root
    head = tracked.head_name(root)
    ref = tracked.commit_of(root, journal.ref) if journal.ref else None
    short = journal.new[:10]
    if journal.moves:
        reached, untouched = begun(layout, journal)
        ours = head in (journal.head, journal.ref or journal.new)
    elif journal.op in ("promote", "pull"):
        reached, untouched = ref == journal.new, ref == journal.was
        ours = head in (journal.head, journal.ref)
    else:
        reached = head == (journal.ref or journal.new)
        untouched, ours = head == journal.head and not reached, True
    if reached and ours:
        with no_space(f"commit {short} is recorded, the next command brings its files"):
            if journal.moves:
                carry_out(layout, journal, f"mvc: {journal.op}")
            settle(layout, journal)
        to = "to" if journal.op == "undo" else "of"
        return f"finished the {journal.op} {to} commit {short}, which was interrupted"
    if journal.op == "promote" and journal.operation is not None and not untouched:
        # It may have happened, and git have moved on from there.
        is_in = ("merge-base", "--is-ancestor", journal.new, ref or "")
        if reached or git.said(root, *is_in)[0] == 0:
            oplog.append(layout, journal.operation)
    journals.clear(layout)
    if untouched:
        return f"dropped a {journal.op} that was interrupted before it changed anything"
    here = tracked.commit_of(root, "HEAD")
    for pointer in tracked.pointers_of(root, here) if here else ():
        if not objects.missing(layout, pointer):
            objects.link(layout, pointer, overwrite=False)
    return f"the {journal.op} of commit {short} was interrupted and HEAD moved since: left as it is"


def begun(layout: Layout, journal: Journal) -> tuple[bool, bool]:
    """Whether a part of the moves was made and nothing else moved, and whether none was."""
    now = _named(layout, list(journal.moves))
    if any(now[ref] not in move for ref, move in journal.moves.items()):
        return False, False
    head, target = tracked.head_name(layout.root), journal.ref or journal.new
    made = any(now[ref] == after for ref, (_, after) in journal.moves.items())
    made = made or (head == target and head != journal.head)
    return made, not made


def _break_locks(layout: Layout, journal: Journal) -> None:
    """Remove the lock files of a git that was killed with its mvc.

    A git that outlived its mvc gets a moment to end by itself.
    """
    import psutil  # 15 ms, for who finds a journal

    if journal.pid != os.getpid() and psutil.pid_exists(journal.pid):
        return
    refs = {journal.ref, *journal.moves} - {""}
    names = ["index.lock", "HEAD.lock", *(f"{ref}.lock" for ref in refs)]
    if journal.op in ("undo", "tag"):
        names.append("packed-refs.lock")  # a ref that goes, goes from there as well
    args = [arg for name in names for arg in ("--git-path", name)]
    found = git.lines(git.read(layout.root, "rev-parse", *args))
    git_locks.remove(layout.root / name for name in found)
