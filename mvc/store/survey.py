"""A look at everything at once: what every commit names, and which of it is here.

Owns reading the pointers and lists of files of a whole history in a few git processes, in time
linear in its commits, and telling moments from the rest. A commit that cannot be read is a
finding, and what it may name counts as needed (`Survey.doubtful`). Changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from mvc.errors import MvcError, ObjectMissing, RevisionNotFound, StoreError
from mvc.keeping import Part, State
from mvc.store import collected, git, history, pointers, refs, remotes, tips
from mvc.store.layout import BATCH, BATCH_POINTER, STATE, STATE_POINTER, Layout
from mvc.types import Commit, Finding, Pointer

_MOMENTS = {".pt", ".pth", ".bin"}
_CHUNK = 500  # commits whose pointers are in memory at once
# A pointer as mvc and DVC write it: reading 10,000 of them as YAML would take a minute. Any other
# form is read as YAML.
_PLAIN = re.compile(
    rb"outs:\n- md5: ([0-9a-f]{32}\.dir)\n  size: \d+\n  nfiles: \d+\n  hash: md5\n"
    rb"  path: (current_model|batch)\n(?:meta:\n(?: [^\n]*\n)*)?\Z"
)
_NAMED = re.compile(rb"\bmd5: ([0-9a-f]{32}(?:\.dir)?)\b")
_RAW = re.compile(r":\d{6} \d{6} [0-9a-f]+ ([0-9a-f]+) [A-Z]")
_POINTERS = {STATE_POINTER: STATE, BATCH_POINTER: BATCH}
_LOCK = "dvc.lock"
_INTRODUCED = ("-m", "--raw", "-z", "--no-abbrev", "--no-renames", "--format=")
_OTHERS = (
    *(":(glob)**/*.dvc", ":(glob)**/dvc.lock"),
    *(f":(exclude){name}" for name in _POINTERS),
)


def part(folder: str, path: str) -> Part:
    """Where a file of a stored folder belongs."""
    name = PurePosixPath(path)
    if folder == BATCH:
        return "data"
    if name.name.startswith("adapter_model."):
        return "adapter"
    return "moments" if name.suffix in _MOMENTS else "small"


class Folder(msgspec.Struct, frozen=True):
    """A stored folder of a commit: its list of files, and the files (path, md5).

    `files` is None where the list is not here.
    """

    name: str
    listing: str
    files: tuple[tuple[str, str], ...] | None

    def objects(self, state: State) -> Iterator[str]:
        """The objects that are kept of it in that state; files first, the list last."""
        if state == "absent":
            return
        for path, md5 in self.files or ():
            if state == "whole" or part(self.name, path) != "moments":
                yield md5
        yield self.listing


@dataclass
class Survey:
    """What there is.

    `commits` are all that any ref reaches, and those that were asked for besides, newest first;
    `loose` are those of them that no ref reaches; `refs` names each ref's commit, HEAD's among
    them; `folders` what each commit with a state stores; `here` the size of every object in the
    cache; `others` the objects that pointers of the user's own name. `doubtful`: some commit could
    not be read, so what no commit seems to name may be needed all the same.
    """

    commits: dict[str, Commit]
    refs: dict[str, str]
    here: dict[str, int]
    folders: dict[str, tuple[Folder, ...]] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    loose: set[str] = field(default_factory=set)
    doubtful: bool = False

    def state(self, commit: str, here: Iterable[str]) -> State:
        """What is left of a commit's state and data where only these objects are."""
        files = self.folders[commit]
        whole = [md5 for each in files for md5 in each.objects("whole")]
        if any(each.files is None for each in files) or all(f.name != STATE for f in files):
            return "absent"
        there = here if isinstance(here, dict | set) else set(here)
        if all(md5 in there for md5 in whole):
            return "whole"
        kept = [md5 for each in files for md5 in each.objects("thin")]
        return "thin" if all(md5 in there for md5 in kept) else "absent"


def survey(layout: Layout, also: Iterable[str] = ()) -> Survey:
    """Look at every commit and every object.

    Args:
        layout: The model repo.
        also: Commits that no ref may reach any more; what git has pruned of them is passed over.

    Raises:
        StoreError: git cannot read a history, which the message names; nothing can be told then.
    """
    seen = tips.look(layout)
    cache = pointers.cache_folder(layout)
    found = Survey({}, seen.commits, objects_in(cache))
    told, walked = _walk(layout, seen)
    known = {each.commit for each in told}
    if loose := _loose(layout, sorted(set(also) - known), walked):
        found.loose = {each.commit for each in loose}
        told = sorted([*told, *loose], key=lambda each: each.time, reverse=True)
    for ref in seen.unreadable:
        last = next((each for each in tips.was(layout, ref) if each in known), "")
        problem = "git cannot read what it names; what no other commit names is kept"
        hint = f"`git fsck` tells more; `git update-ref -d {ref}` lets go of it"
        found.findings.append(Finding(last, ref, problem, hint))
        found.doubtful = True
    # A thinned commit has its lists still: one that is missing is damage.
    gone = {commit for commit, state in collected.read(layout).items() if state == "absent"}
    explained = gone | elsewhere(layout)
    read: dict[str, tuple[tuple[str, str], ...]] = {}
    for at in range(0, len(told), _CHUNK):
        for commit, texts in _texts(layout, told[at : at + _CHUNK], found):
            folders = []
            may_lack = commit.commit in explained
            for name, text in texts.items():
                try:
                    folders.append(_folder(cache, name, text, read, may_lack=may_lack))
                except MvcError as error:
                    _doubt(found, commit.commit, name, error)
            found.commits[commit.commit] = commit
            if STATE_POINTER in texts:
                found.folders[commit.commit] = tuple(folders)
    _others(layout, cache, found, [*walked, *found.loose])
    return found


def _walk(layout: Layout, seen: tips.Tips) -> tuple[list[Commit], list[str]]:
    """All that refs reach, and what told git to go there."""
    walked = ["--all", *(["HEAD"] if "HEAD" in seen.commits else [])]
    if seen.unreadable:  # `--all` would end at them
        walked = sorted(set(seen.commits.values()))
    try:
        return history.reachable(layout.root, walked), walked
    except (git.GitFailed, RevisionNotFound) as error:
        raise tips.unreadable(layout, seen) from error


def _loose(layout: Layout, names: list[str], walked: list[str]) -> list[Commit]:
    """What these commits reach and no ref does; what git has pruned meanwhile is passed over."""
    try:
        return history.reachable(layout.root, names, walked) if names else []
    except (git.GitFailed, RevisionNotFound):
        found: dict[str, Commit] = {}
        for name in names:
            with contextlib.suppress(git.GitFailed, RevisionNotFound):
                alone = [f"{name}^{{commit}}", "--no-walk"]
                found |= {each.commit: each for each in history.reachable(layout.root, alone)}
            with contextlib.suppress(git.GitFailed, RevisionNotFound):
                more = history.reachable(layout.root, [name], walked)
                found |= {each.commit: each for each in more}
        return list(found.values())


def read_folders(layout: Layout, commits: Sequence[str]) -> list[Folder]:
    """What these commits store; of those that a remote has the lists need not be here.

    Raises:
        MvcError: one of them cannot be read.
    """
    cache, far = pointers.cache_folder(layout), elsewhere(layout) if commits else set()
    names = [(commit, name) for commit in commits for name in _POINTERS]
    texts = git.cat(layout.root, [f"{commit}:{name}" for commit, name in names])
    return [
        _folder(cache, name, text, {}, may_lack=commit in far)
        for (commit, name), text in zip(names, texts, strict=True)
        if text is not None
    ]


def fetched(layout: Layout, commits: Sequence[str]) -> set[str]:
    """Those commits whose state's list of files is here."""
    cache, found = pointers.cache_folder(layout), set()
    texts = git.cat(layout.root, [f"{commit}:{STATE_POINTER}" for commit in commits])
    for commit, text in zip(commits, texts, strict=True):
        with contextlib.suppress(MvcError):
            pointer = _pointer(STATE_POINTER, text or b"")
            found |= {commit} if pointers.object_path(cache, pointer.md5).is_file() else set()
    return found


def objects_in(folder: Path) -> dict[str, int]:
    """The objects below `folder` (a cache or a trash) and their sizes in bytes."""
    found: dict[str, int] = {}
    if not folder.is_dir():
        return found
    for prefix in os.scandir(folder):
        if len(prefix.name) == 2 and prefix.is_dir(follow_symlinks=False):
            for entry in os.scandir(prefix.path):
                md5 = prefix.name + entry.name
                if pointers.is_md5(md5) and entry.is_file(follow_symlinks=False):
                    found[md5] = entry.stat(follow_symlinks=False).st_size
    return found


def elsewhere(layout: Layout) -> set[str]:
    """The commits that a remote has, whose objects need not be here."""
    try:
        names = [remote.name for remote in remotes.listing(layout) if remote.data_url]
    except MvcError:
        return set()
    found: set[str] = set()
    for name in names:
        with contextlib.suppress(git.GitFailed):  # the ref is told of, as a finding
            found |= set(refs.reached(layout.root, name))
    return found


def _texts(
    layout: Layout, commits: Sequence[Commit], found: Survey
) -> Iterator[tuple[Commit, dict[str, bytes]]]:
    """The pointers of each commit; one that git cannot read is a finding.

    Their trees say which there must be: a damaged blob is not taken for none.
    """
    trees = _read(layout, [f"{each.commit}^{{tree}}" for each in commits])
    width = len(commits[0].commit) // 2
    blobs = [None if tree is None else _blobs(tree, width) for tree in trees]
    names = sorted({blob for each in blobs for blob in (each or {}).values()})
    texts = dict(zip(names, _read(layout, names), strict=True))
    for commit, named in zip(commits, blobs, strict=True):
        there: dict[str, bytes] = {}
        for name, blob in ({STATE_POINTER: ""} if named is None else named).items():
            text = texts.get(blob)
            if text is None:
                lost = StoreError(f"git cannot read {name}", "`git fsck`")
                _doubt(found, commit.commit, name, lost)
            there[name] = text or b""
        yield commit, there


def _read(layout: Layout, names: Sequence[str]) -> list[bytes | None]:
    """`git.cat`, where a damaged object must not hide the others."""
    try:
        return git.cat(layout.root, names)
    except git.GitFailed:
        texts: list[bytes | None] = []
        for name in names:
            try:
                texts += git.cat(layout.root, [name])
            except git.GitFailed:
                texts.append(None)
        return texts


def _blobs(tree: bytes, width: int) -> dict[str, str]:
    """The blobs of our pointers in a tree object, whose hashes take `width` bytes each.

    Source: gitformat-pack(5) and `git cat-file --batch`: `MODE NAME`, a NUL, the hash.
    """
    found, at = {}, 0
    while at < len(tree):
        start = tree.index(b" ", at) + 1
        end = tree.index(b"\0", start)
        at = end + 1 + width
        if (name := tree[start:end].decode(errors="replace")) in _POINTERS:
            found[name] = tree[end + 1 : at].hex()
    return found


def _folder(
    cache: Path,
    name: str,
    text: bytes,
    read: dict[str, tuple[tuple[str, str], ...]],
    *,
    may_lack: bool = False,
) -> Folder:
    pointer = _pointer(name, text)
    if pointer.md5 not in read:
        try:
            listed = pointers.entries_in(cache, pointer)
        except ObjectMissing:
            if may_lack:
                return Folder(pointer.path, pointer.md5, None)
            raise
        read[pointer.md5] = tuple((path, md5) for path, md5, _ in listed)
    return Folder(pointer.path, pointer.md5, read[pointer.md5])


def _pointer(name: str, text: bytes) -> Pointer:
    if plain := _PLAIN.fullmatch(text):
        path = plain[2].decode()
        if path == _POINTERS[name]:
            return Pointer(path, plain[1].decode(), 0, 0)
    pointer = pointers.parse_pointer(text, name)
    if pointer.path != _POINTERS[name]:
        what = f"{name}: its folder is {pointer.path!r}, not {_POINTERS[name]!r}"
        raise StoreError(what, "`git log` names its author")
    return pointer


def _doubt(found: Survey, commit: str, name: str, error: MvcError) -> None:
    found.doubtful = True
    hint = "`mvc fsck` tells more; `mvc fsck --repair` mends what a remote has"
    if not any(each.commit == commit and each.path == name for each in found.findings):
        found.findings.append(Finding(commit, name, error.message, hint))


def _others(layout: Layout, cache: Path, found: Survey, walked: Sequence[str]) -> None:
    """What pointers name that are not ours: of any commit, and of the work tree as it is."""
    root = layout.root
    try:
        told = git.read(root, "log", *_INTRODUCED, *walked, "--", *_OTHERS)
        blobs = set(_RAW.findall(told))
    except git.GitFailed:  # a damaged tree ends the whole log
        blobs = _introduced(layout, list(found.commits), found)
    names = sorted(blobs - {"0" * 40, "0" * 64})
    texts = _read(layout, names)
    for name, text in zip(names, texts, strict=True):
        if text is None:
            _doubt(found, "", name, StoreError("git cannot read this pointer", "`git fsck`"))
    walk = ("ls-files", "-co", "--exclude-standard", "-z", "--", "*.dvc", "*dvc.lock")
    here = git.read(root, *walk).split("\0")
    texts += [(root / path).read_bytes() for path in here if path and (root / path).is_file()]
    named = {md5.decode() for text in texts if text for md5 in _NAMED.findall(text)}
    for md5 in sorted(named):
        found.others.add(md5)
        if md5.endswith(".dir") and md5 in found.here:
            try:
                listed = pointers.entries_in(cache, Pointer("", md5, 0, 0))
            except MvcError as error:
                _doubt(found, "", md5, error)
                continue
            found.others |= {each for _, each, _ in listed}


def _introduced(layout: Layout, commits: list[str], found: Survey) -> set[str]:
    """The pointers of others in these commits, where some tree cannot be read.

    A commit whose difference cannot be told (its parent's tree is damaged) is listed whole.
    """
    root = layout.root
    try:
        told = git.read(root, "log", "--no-walk", *_INTRODUCED, *commits, "--", *_OTHERS)
        return set(_RAW.findall(told))
    except git.GitFailed:
        if len(commits) > 1:
            half = len(commits) // 2
            first, second = commits[:half], commits[half:]
            return _introduced(layout, first, found) | _introduced(layout, second, found)
    try:
        told = git.read(root, "ls-tree", "-r", "-z", "--full-tree", commits[0])
    except git.GitFailed:
        _doubt(found, commits[0], "its tree", StoreError("git cannot read it", "`git fsck`"))
        return set()
    rows = (row.split("\t", 1) for row in told.split("\0") if row)
    return {
        meta.split(" ")[2]
        for meta, path in rows
        if path not in _POINTERS and (path.endswith(".dvc") or PurePosixPath(path).name == _LOCK)
    }
