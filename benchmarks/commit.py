"""One commit of the user's size: 323 MB of fp32 adapter and 646 MB of moments, a real wide LoRA.

Cold: the files of a state lie on disk, and a fresh process makes them a commit. Warm: the daemon's
own path, from tensors in memory to the commit, nothing training meanwhile; beside the floor, the
same bytes written once while their md5 is computed, and fsynced as a commit must be.

    python -m benchmarks.commit
    python -m benchmarks.commit --peers    # git-lfs, restic and mlflow, where they are here
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import frame
from benchmarks.gap import WIDE, batches, wide_base

TURNS = 5
BLOCK = 1 << 20


def main(*, peers: bool) -> None:
    """Measure, write results/commit.json, or commit-peers.json: they take as long as all else."""
    with frame.workplace() as folder:
        from mvc.ops import init

        base = str(wide_base(folder / "base"))
        root = init.init(folder / "model", base, sets=WIDE).root
        me = (sys.executable, "-m", "benchmarks.commit")
        told = folder / "warm.json"
        subprocess.run([*me, "--warm", str(root), str(told)], check=True)
        warm = json.loads(told.read_text())
        stash = states(root, folder / "states")
        runs = {"mvc": _mvc(folder, base)} | (_peers(folder) if peers else {"dvc": _dvc(folder)})
        cold = frame.interleaved({name: run(stash) for name, run in runs.items()}, TURNS)
    what = f"one commit of {warm['bytes'] / 1e6:,.0f} MB, cold: mvc's store in a fresh process"
    if peers:
        frame.write("commit-peers", compared(what, cold), about=[*frame.about(), _versions()])
        return
    rows = [
        frame.row(
            what,
            "`dvc add` + `git commit` of the same files",
            cold["mvc"],
            cold["dvc"],
            at_most=0.75,
            why="the store's part of a commit in a fresh process, durable; `mvc train` itself "
            "stores what it hashed while it wrote",
        ),
        frame.row(
            "the same, warm (the daemon's path)",
            "writing the files once while computing the md5",
            warm["commit"],
            warm["floor"],
            at_most=1.15,
            why="both sides fsync; mvc also computes the SHA-256 that a signed commit vouches for, "
            "but two files at once, and the disk begins before the last byte; the copy of the "
            "tensors in memory, which a batch waits for, is the gap's",
        ),
        frame.row(
            "disk written per commit",
            "bytes of the state",
            [each / 1e6 for each in warm["written"]],
            [warm["bytes"] / 1e6] * TURNS,
            at_most=1.05,
            unit="MB",
        ),
    ]
    frame.write("commit", rows)


def compared(what: str, cold: dict[str, list[float]]) -> list[frame.Row]:
    """A row for each peer, also for one that is not here."""
    return [
        frame.row(what, words, cold["mvc"], cold[name])
        if name in cold
        else frame.not_run(what, words, "", f"{name} is not on this machine's PATH")
        for name, words in PEERS.items()
    ]


PEERS = {
    "git-lfs": "`git add` + `git commit` with git-lfs",
    "restic": "`restic backup` into a local repository",
    "mlflow": "`mlflow artifacts log-artifacts` into a local store",
}


# --- cold: the same files, by fresh processes --------------------------------------------------


def states(root: Path, folder: Path) -> list[Path]:
    """Every trained state of the line as a folder of its own; its files are links."""
    from mvc.store import history, objects, workspace
    from mvc.store.layout import Layout

    at, found = Layout(root), []
    cache = objects.cache_folder(at)
    for made in history.log(root, limit=TURNS):
        target = folder / made.short
        target.mkdir(parents=True)
        pointer = workspace.pointers_of(root, made.commit)[0]
        for path, md5, _ in objects.entries(at, pointer):
            os.link(objects.object_path(cache, md5), target / path)
        found.append(target)
    return found


def _versions() -> str:
    told = [
        subprocess.run(words, capture_output=True, text=True).stdout.splitlines()[0]
        for words in (("git-lfs", "version"), ("restic", "version"), ("mlflow", "--version"))
        if shutil.which(words[0])
    ]
    return "; ".join(told)


Prepared = Callable[[list[Path]], frame.Run]


def _peers(folder: Path) -> dict[str, Prepared]:
    """A run for each peer that is here: it lays out the next state untimed, then commits it."""
    made = {"git-lfs": _git_lfs, "restic": _restic, "mlflow": _mlflow}
    return {name: make(folder) for name, make in made.items() if shutil.which(name)}


def _turns(lay: Callable[[Path], Path], commit: Callable[[Path], float]) -> Prepared:
    def prepared(stash: list[Path]) -> frame.Run:
        left = iter(stash)

        def run() -> float:
            target = lay(next(left))
            frame.settle()
            return commit(target)

        return run

    return prepared


def _lay(source: Path, target: Path) -> Path:
    """What a script would have left: the files at `target`. They are links: nobody writes to them,
    DVC and mvc move them into their caches."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link)
    return target


def _mvc(folder: Path, base: str) -> Prepared:
    from mvc.ops import init
    from mvc.store.layout import Layout

    root = init.init(folder / "cold", base, sets=WIDE).root
    return _turns(
        lambda source: _lay(source, Layout(root).run / "state"),
        lambda _: frame.call("python", "-m", "benchmarks.commit", "--cold", root, cwd=Path.cwd()),
    )


def _dvc(folder: Path) -> Prepared:
    root = folder / "dvc"
    _git(root)
    frame.call("dvc", "init", "-q", cwd=root)

    def commit(target: Path) -> float:
        seconds = frame.call("dvc", "add", "-q", target.name, cwd=root)
        seconds += frame.call("git", "add", ".", cwd=root)
        return seconds + frame.call("git", "commit", "-qm", "batch", cwd=root)

    return _turns(lambda source: _lay(source, root / "current_model"), commit)


def _git_lfs(folder: Path) -> Prepared:
    root = folder / "lfs"
    _git(root)
    frame.call("git", "lfs", "install", "--local", cwd=root)
    frame.call("git", "lfs", "track", "*.safetensors", "*.pt", "*.pth", cwd=root)

    def commit(_: Path) -> float:
        return frame.call("git", "add", ".", cwd=root) + frame.call(
            "git", "commit", "-qm", "batch", cwd=root
        )

    return _turns(lambda source: _lay(source, root / "current_model"), commit)


def _restic(folder: Path) -> Prepared:
    root = folder / "restic"
    root.mkdir()
    secret = {"RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(root / "repo")}
    frame.call("restic", "init", cwd=root, **secret)
    return _turns(
        lambda source: _lay(source, root / "current_model"),
        lambda target: frame.call("restic", "backup", "-q", target, cwd=root, **secret),
    )


def _mlflow(folder: Path) -> Prepared:
    root = folder / "mlflow"
    root.mkdir()
    where = {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    begin = "import mlflow; print(mlflow.start_run().info.run_id)"

    def commit(target: Path) -> float:
        python = Path(shutil.which("mlflow") or "").resolve().parent / "python"
        env = {**os.environ, **where}
        said = subprocess.run(
            [python, "-c", begin], cwd=root, env=env, capture_output=True, text=True, check=True
        )
        run = said.stdout.split()[-1]
        words = ("mlflow", "artifacts", "log-artifacts", "-l", target, "-r", run)
        return frame.call(*words, cwd=root, **where)

    return _turns(lambda source: _lay(source, root / "current_model"), commit)


def _git(root: Path) -> None:
    root.mkdir()
    frame.call("git", "init", "-q", "-b", "main", cwd=root)


def cold(root: Path) -> None:
    """In a process of its own: the files of `.mvc/run/state` become a commit, durably."""
    from mvc.ops import record
    from mvc.store import history, layout, messages, objects, workspace
    from mvc.store.lock import Lock
    from mvc.types import Commit

    at = layout.Layout(root)
    with Lock(at, "benchmark"):
        workspace.recover(at)
        files = objects.hash_folder(at.run / "state")
        meta = record.state_meta({}, files)
        pointer = objects.store_folder(at, at.run / "state", files, layout.STATE, meta)
        objects.remember(at, files)
        branch, parent = workspace.head(root)
        assert branch and parent
        number, now = history.next_batch(root, parent), datetime.now(UTC)
        made = Commit("", (parent,), "batch", number, now, "", steps=1, lifetime_step=number)
        message = messages.format_message(made)
        new = workspace.NewCommit(message, {}, (pointer,), parent, branch, now)
        workspace.promote(at, new)


# --- warm: the daemon's path, and the floor ----------------------------------------------------


def warm(root: Path, out: Path) -> None:
    """In a process of its own: batches through the daemon's stream, each committed alone."""
    from mvc.engine import files
    from mvc.ops.stream import _HOLD_S, Stream
    from mvc.store.layout import Layout
    from mvc.store.lock import Line

    at = Layout(root)
    found: dict[str, Any] = {"commit": [], "floor": [], "written": []}
    with Line(at, "benchmark"):
        stream = Stream(at, "benchmark")
        stream.open()
        for turn, path in enumerate(batches(root.parent, TURNS + 1, rows=2)):
            stream.train(files.identify(path))
            ready = time.perf_counter()
            frame.settle()
            if time.perf_counter() - ready > _HOLD_S - 1:
                raise RuntimeError("too slow a disk: the commit began before its clock")
            before, begun = _written(), time.perf_counter()
            stream.drain()
            seconds, written = time.perf_counter() - begun, _written() - before
            parts = [each.read_bytes() for each in sorted(at.state.iterdir())]
            frame.settle()
            floor = write_once(parts, root.parent / "floor")
            frame.tell(f"  commit {seconds:.2f} s, floor {floor:.2f} s, {written / 1e6:.0f} MB")
            if turn:  # the first has DVC to import
                found["commit"].append(seconds)
                found["floor"].append(floor)
                found["written"].append(written)
        found["bytes"] = sum(map(len, parts))
        stream.close()
    out.write_text(json.dumps(found))


def write_once(parts: list[bytes], folder: Path) -> float:
    """Seconds to write each part to a file of its own while computing its md5, durably."""
    folder.mkdir(exist_ok=True)
    begun = time.perf_counter()
    for number, data in enumerate(parts):
        md5, view = hashlib.md5(usedforsecurity=False), memoryview(data)
        with (folder / str(number)).open("wb") as file:
            for at in range(0, len(data), BLOCK):
                md5.update(view[at : at + BLOCK])
                file.write(view[at : at + BLOCK])
            file.flush()
            os.fsync(file.fileno())
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder)
    return seconds


def _written() -> int:
    """Bytes that this process, its threads and its ended children caused to be written to disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("write_bytes")))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--cold", root]:
            cold(Path(root))
        case ["--warm", root, out]:
            warm(Path(root), Path(out))
        case ["--peers"]:
            main(peers=True)
        case _:
            main(peers=False)
