"""A stranger's repo, and a victim who meets it: what the tests of hostile repos share.

Nothing here needs torch. The victim works in a forked child whose memory is bounded, and whatever
it leaves outside its own repo is found by comparing the whole folder before and after.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvc.store import objects, pointers
from mvc.store.layout import Layout
from tests.ops.lines import content, git
from tests.processes import in_process

MEMORY = 2 << 30
"""Bytes of address space that a victim may take beyond what its process has at the start."""


class Stranger:
    """A line whose newest commit is made by hand, with whatever its maker likes in it.

    `marker` is the file that code of theirs would make, `outside` a folder with a file that
    nobody may touch.
    """

    def __init__(self, at: Layout, folder: Path) -> None:
        self.at, self.root, self.folder = at, at.root, folder
        self.marker, self.outside = folder / "marker", folder / "outside"
        self.outside.mkdir(exist_ok=True)
        (self.outside / "HEAD.lock").write_text("not yours")

    @property
    def command(self) -> str:
        """A shell command that leaves the marker."""
        return f"touch {self.marker}"

    def write(self, path: str, text: str | bytes) -> None:
        """A tracked file, whatever stands in its place."""
        target = self.root / path
        if target.is_symlink() or target.is_file():
            target.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        self.stage("100644", text, path)

    def link(self, path: str, target: Path | str) -> None:
        """A tracked link; in git alone, so that the stranger's own tools go on working."""
        self.stage("120000", str(target), path)

    def stage(self, mode: str, text: str | bytes, path: str) -> None:
        data = text.encode() if isinstance(text, str) else text
        command = ["git", "hash-object", "-w", "--stdin"]
        done = subprocess.run(command, cwd=self.root, input=data, capture_output=True, check=True)
        blob = done.stdout.decode().strip()
        for folder in [path, *map(str, Path(path).parents)][:-1]:
            git(self.root, "rm", "-q", "-r", "--cached", "--ignore-unmatch", "--", folder) if (
                folder != path or mode == "120000"
            ) else None
        git(self.root, "update-index", "--add", "--cacheinfo", f"{mode},{blob},{path}")

    def listing(self, entries: list[dict[str, Any]] | bytes, name: str = "current_model") -> None:
        """A list of files with a right hash, and a pointer to it that vouches for nothing."""
        data = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
        md5 = hashlib.md5(data).hexdigest() + ".dir"
        path = objects.object_path(objects.cache_folder(self.at), md5)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self.write(f"{name}.dvc", f"outs:\n- md5: {md5}\n  hash: md5\n  path: {name}\n")

    def entries(self, name: str = "current_model") -> list[dict[str, Any]]:
        """The newest commit's list of files, to be changed."""
        pointer = pointers.parse_pointer((self.root / f"{name}.dvc").read_bytes(), name)
        return [{"md5": md5, "relpath": path} for path, md5, _ in objects.entries(self.at, pointer)]

    def pointer(self, old: str, new: str, name: str = "current_model") -> None:
        """Another text in a pointer."""
        text = (self.root / f"{name}.dvc").read_text()
        assert old in text
        self.write(f"{name}.dvc", text.replace(old, new, 1))

    def replace(self, name: str, data: bytes, more: dict[str, bytes] | None = None) -> None:
        """Other files in the state, with a manifest that is right about them."""
        from mvc.ops import record

        folder = self.folder / "made"
        shutil.copytree(self.at.state, folder, symlinks=False)
        for path in folder.iterdir():
            path.chmod(0o644)
        for each, text in {name: data, **(more or {})}.items():
            (folder / each).write_bytes(text)
        files = objects.hash_folder(folder)
        pointer = objects.store_folder(
            self.at, folder, files, "current_model", record.state_meta({}, files)
        )
        self.write("current_model.dvc", objects.format_pointer(pointer))

    def commit(self) -> str:
        """The commit; returns its hash."""
        git(self.root, "commit", "-q", "--no-verify", "-m", "see what I made")
        return git(self.root, "rev-parse", "HEAD")


class Victim:
    """Plain `git clone` of a stranger's line; the cache has every object that the stranger sent."""

    def __init__(self, stranger: Stranger, before: str) -> None:
        """Stand on the commit `before`, the last honest one."""
        self.stranger, self.root = stranger, stranger.folder / "victim"
        self.at = Layout(self.root)
        git(stranger.folder, "clone", "-q", "--no-checkout", str(stranger.root), str(self.root))
        git(self.root, "reset", "-q", "--hard", before)
        cache = stranger.root / ".dvc" / "cache"
        shutil.copytree(cache, stranger.folder / "cache", symlinks=True)
        self.local = f"[cache]\n    dir = {stranger.folder / 'cache'}\n    type = copy\n"
        (self.root / ".dvc" / "config.local").write_text(self.local)
        assert (
            self.run("checkout", "main" if before == self.head("origin/main") else before)[0] == 0
        )

    def shares(self) -> str:
        """Stand on `main`, and let `origin` have the stranger's objects; returns where."""
        store = self.stranger.folder / "cache"
        file = self.root / ".dvc" / "config.local"
        file.write_text(f"{self.local}['remote \"origin\"']\n    url = {store}\n")
        git(self.root, "symbolic-ref", "HEAD", "refs/heads/main")
        return str(store)

    def head(self, rev: str = "HEAD") -> str:
        return git(self.root, "rev-parse", rev)

    def run(self, *args: str) -> tuple[int, str]:
        """`mvc ARGS` in a child with bounded memory; exit code and what it said on stderr."""
        from mvc.cli import main

        def child() -> tuple[int, str]:
            os.chdir(self.root)
            bound_memory()
            said, out = io.StringIO(), io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
                status = main.run(list(args))
            return status, said.getvalue()

        return in_process(child)

    def everything_else(self) -> dict[str, bytes]:
        """Every file that is not the victim's own, and its own hooks and git settings."""
        mine = f"{self.root.name}/"
        ours = (f"{mine}.git/hooks", f"{mine}.git/config")
        found = content(self.stranger.folder)
        return {p: d for p, d in found.items() if not p.startswith(mine) or p.startswith(ours)}


def bound_memory() -> None:
    """Let this process take `MEMORY` more bytes of address space, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def refused(said: str) -> bool:
    """Whether what was said is an error with a way out, and no bug of ours."""
    return "Error:" in said and "Hint:" in said and "bug of ours" not in said


Case = Callable[[Stranger], object]
