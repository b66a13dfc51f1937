"""What one mvc command does, counted: for tests of speed that no busy machine can upset.

The command runs in a process of its own under an audit hook. Counted are the processes that it
starts, the bytes that it hashes and writes, how often it opens each file of the state and of the
cache, and what it imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_RUN = """
import hashlib, json, os, sys

processes, opened, hashed = [], [], [0]

def hook(event, args):
    if event == "subprocess.Popen":
        processes.append([os.path.basename(str(each)) for each in args[1][:1]] + list(args[1][1:]))
    elif event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        opened.append(os.path.abspath(os.fsdecode(args[0])))

class Counted:
    def __init__(self, inner): self.inner = inner
    def update(self, data):
        hashed[0] += memoryview(data).nbytes
        self.inner.update(data)
    def __getattr__(self, name): return getattr(self.inner, name)

def counted(make):
    def made(data=b"", **how):
        hashed[0] += len(data)
        return Counted(make(data, **how))
    return made

for name in ("md5", "sha256"):
    setattr(hashlib, name, counted(getattr(hashlib, name)))
sys.addaudithook(hook)
from mvc.cli.main import run
status = run(sys.argv[2:])
told = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
with open(sys.argv[1], "w") as out:
    json.dump({"status": status, "processes": processes, "opened": opened, "hashed": hashed[0],
               "written": int(told["wchar"]), "modules": list(sys.modules)}, out)
"""


@dataclass(frozen=True)
class Counts:
    """`git` are git's subcommands in order, `others` the other programs' names; `opened` how often
    each object and each file of the state was opened; `hashed` and `written` are bytes (of this
    process alone, sockets and pipes too); `modules` the names of all that was imported."""

    git: tuple[str, ...]
    others: tuple[str, ...]
    opened: Counter[str]
    hashed: int
    written: int
    modules: frozenset[str]

    @property
    def most_opened(self) -> int:
        """How often the object that is opened most was, lists of files (`.dir`) apart."""
        data = (n for path, n in self.opened.items() if not path.endswith(".dir"))
        return max(data, default=0)


def count(root: Path, *args: str) -> Counts:
    """Run `mvc ARGS` in `root` and count."""
    told = root.parent / f"{root.name}.counts"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(told), *args],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(told.read_text())
    assert found["status"] == 0, done.stderr
    of_git = [_subcommand(each[1:]) for each in found["processes"] if each[0] == "git"]
    return Counts(
        git=tuple(of_git),
        others=tuple(each[0] for each in found["processes"] if each[0] != "git"),
        opened=Counter(path for path in found["opened"] if _is_object(Path(path), root)),
        hashed=found["hashed"],
        written=found["written"],
        modules=frozenset(found["modules"]),
    )


def _subcommand(words: list[str]) -> str:
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-c", "-C") else words[1:]
    return words[0]


def _is_object(path: Path, root: Path) -> bool:
    return any(path.is_relative_to(root / name) for name in (".dvc/cache", "current_model"))
