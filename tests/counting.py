"""What one mvc command does, counted: for tests of speed that no busy machine can upset.

The command runs in a process of its own under an audit hook. Counted are the processes that it
starts, the bytes that it hashes, reads and writes, how often it opens each file of the state and
of the cache, and DVC's database, and what it imports.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import subprocess
import sys
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Threads hash and import too: appending is atomic, adding to a number is not.
_RUN = """
import hashlib, json, os, sys
import importlib._bootstrap_external as loading

sys.dont_write_bytecode = True

processes, opened, synced, databases, hashed, imported = [], [], [], [], [], []

def hook(event, args):
    if event == "subprocess.Popen":
        processes.append([os.path.basename(str(each)) for each in args[1][:1]] + list(args[1][1:]))
    elif event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(args[0]))
        (synced if os.path.isdir(path) else opened).append(path)
    elif event == "sqlite3.connect":
        databases.append(args[0])

class Counted:
    def __init__(self, inner): self.inner = inner
    def update(self, data):
        hashed.append(memoryview(data).nbytes)
        self.inner.update(data)
    def __getattr__(self, name): return getattr(self.inner, name)

def counted(make):
    def made(*args, **how):
        hashed.extend(memoryview(each).nbytes for each in args if not isinstance(each, str))
        return Counted(make(*args, **how))
    return made

def moved():
    told = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return int(told["rchar"]), int(told["wchar"])

for name in ("md5", "sha256", "new"):
    setattr(hashlib, name, counted(getattr(hashlib, name)))
load = loading.FileLoader.get_data

def get_data(self, path):
    data = load(self, path)
    imported.append(len(data))
    return data

loading.FileLoader.get_data = get_data
before = moved()
sys.addaudithook(hook)
from mvc.cli.main import run
status = run(sys.argv[2:])
read, written = (now - then for now, then in zip(moved(), before))
with open(sys.argv[1], "w") as out:
    json.dump({"status": status, "processes": processes, "opened": opened, "synced": synced,
               "databases": len(databases), "hashed": sum(hashed), "read": read - sum(imported),
               "written": written, "modules": list(sys.modules)}, out)
"""


@dataclass(frozen=True)
class Counts:
    """`git` are git's subcommands in order, `others` the other programs' names; `opened` how often
    each object and each file of the state was opened, `synced` how often each folder of them,
    which is done to sync it; `databases` how many connections to DVC's there were; `hashed`, `read`
    and `written` are bytes; `modules` the names of all that was imported.

    `read` and `written` are the kernel's own count (rchar and wchar of proc_pid_io(5)): of pipes
    and sockets too, and of the processes that it started and waited for. The code that is imported
    is not among them, nor what is mapped into memory.
    """

    git: tuple[str, ...]
    others: tuple[str, ...]
    opened: Counter[str]
    synced: Counter[str]
    databases: int
    hashed: int
    read: int
    written: int
    modules: frozenset[str]

    @property
    def most_opened(self) -> int:
        """How often the object that is opened most was, lists of files (`.dir`) apart."""
        data = (n for path, n in self.opened.items() if not path.endswith(".dir"))
        return max(data, default=0)

    @property
    def most_synced(self) -> int:
        """How often the folder that is synced most was."""
        return max(self.synced.values(), default=0)


def count(root: Path, *args: str) -> Counts:
    """Run `mvc ARGS` in `root` and count."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(_told(root)), *args],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return _counts(root, done.stderr)


def count_warm(root: Path, *args: str) -> Counts:
    """Like `count`, in a fork of this process: what it has imported costs and counts nothing."""
    child = os.fork()
    if not child:
        try:
            sys.argv = ["-c", str(_told(root)), *args]
            os.chdir(root)
            for each in gc.get_objects():  # what it knows already is to be asked again
                if isinstance(each, functools._lru_cache_wrapper) and _is_mvc(each):
                    each.cache_clear()
            exec(_RUN, {})
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return _counts(root, "see what was captured")


def _is_mvc(function: object) -> bool:
    return str(getattr(function, "__module__", "")).startswith("mvc.")


def _told(root: Path) -> Path:
    return root.parent / f"{root.name}.counts"


def _counts(root: Path, said: str) -> Counts:
    assert _told(root).exists(), said
    found = json.loads(_told(root).read_text())
    _told(root).unlink()  # a later command that tells nothing must not be taken for this one
    assert found["status"] == 0, said
    of_git = [_subcommand(each[1:]) for each in found["processes"] if each[0] == "git"]
    return Counts(
        git=tuple(of_git),
        others=tuple(each[0] for each in found["processes"] if each[0] != "git"),
        opened=_ours(found["opened"], root),
        synced=_ours(found["synced"], root),
        databases=found["databases"],
        hashed=found["hashed"],
        read=found["read"],
        written=found["written"],
        modules=frozenset(found["modules"]),
    )


def _subcommand(words: list[str]) -> str:
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-c", "-C") else words[1:]
    return words[0]


def _ours(paths: list[str], root: Path) -> Counter[str]:
    """How often there are those of the cache and of the state."""
    folders = [root / name for name in (".dvc/cache", "current_model")]
    return Counter(p for p in paths if any(Path(p).is_relative_to(each) for each in folders))
