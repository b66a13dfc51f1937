"""Thirty days of the load that mvc is made for, at a thousandth of its size, under five policies.

144 commits a day, each 969 kB of state (a third adapter, two thirds moments), a snapshot a day,
the small files the same all the time. Written through git fast-import and into the cache by hash,
as promotion would leave them: it is the keeping that is measured here, not the training.

    python -m benchmarks.retention [DAYS]      # 13 GB of disk for 30 days

The bytes that each policy keeps are `points` of results/retention.json, and a table of README.md
("Keeping"). The rows are times: of `mvc gc` and `dvc gc` as a user runs them, on equal copies of
the same cache, to the same end: the head and the days stay, the rest is gone.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import frame
from mvc.ops import gc, record
from mvc.settings import BaseSettings, KeepSettings, ThinSettings
from mvc.store import config, git, messages, objects, pointers, survey
from mvc.store.layout import STATE, Layout
from mvc.types import Commit, Data, FileDigest, Loss, Pointer, Rate

BATCHES_A_DAY = 144
START = datetime(2026, 10, 1, tzinfo=UTC)
ADAPTER, MOMENTS = 323_000, 646_000
SMALL = {"adapter_config.json": 900, "tokenizer.json": 3_000, "tokenizer_config.json": 500}
POLICIES = (
    ("a day whole, a month of days whole", KeepSettings(within="1d", daily=30), ThinSettings()),
    ("last 12, 48 hourly, 30 daily", KeepSettings(last=12, hourly=48, daily=30), ThinSettings()),
    (
        "a day whole, a week of adapters",
        KeepSettings(within="1d", daily=7),
        ThinSettings(within="7d"),
    ),
    ("last 12 whole, every adapter", KeepSettings(last=12), ThinSettings(within="10y")),
    (
        "last 12 whole, hourly adapters; snapshots thin",
        KeepSettings(last=12, snapshots=False),
        ThinSettings(hourly=720),
    ),
)


def main(days: int) -> None:
    """Make the line, count what each policy keeps, time both programs."""
    with frame.workplace() as folder:
        at = line(folder / "model", days)
        points = kept(at, days)
        seconds, ends = timed(at)
        held = {name: f"{end:,} objects" for name, end in ends.items()}
        if len(set(ends.values())) != 1:
            raise RuntimeError(f"not the same is left: {held}")
        left = f"both leave {ends['mvc']:,} of {points[0]['objects']:,} objects"
        rows = [
            frame.row(
                f"mvc gc --apply at {days * BATCHES_A_DAY:,} commits: into the trash",
                "dvc gc --all-branches --all-tags: for good",
                [seconds["apply"]],
                [seconds["dvc heads"]],
                why=f"{left}; mvc can bring the rest back for a week",
            ),
            frame.row(
                "mvc gc --apply, then --apply --empty-trash: for good",
                "dvc gc --all-branches --all-tags: for good",
                [seconds["apply"] + seconds["empty"]],
                [seconds["dvc heads"]],
                why=left,
            ),
            frame.row(
                "mvc gc (the plan)",
                "dvc gc --all-commits (it keeps every commit)",
                [seconds["plan"]],
                [seconds["dvc all"]],
                why="each looks at every commit, and nothing goes",
            ),
        ]
    frame.write("retention", rows, points=points)


def kept(at: Layout, days: int) -> list[dict[str, Any]]:
    """What each policy keeps of the line."""
    settings, now = config.load(at), START + timedelta(days=days)
    here = survey.objects_in(objects.cache_folder(at))
    total, count = sum(here.values()), days * BATCHES_A_DAY
    found = [point("everything", count, 0, total, total, len(here))]
    for name, keep, thin in POLICIES:
        keep = msgspec.structs.replace(keep, undo=0)
        rules = msgspec.structs.replace(settings, keep=keep, thin=thin)
        plan = gc.gc(at, settings=rules, now=now).plan
        states = [each.state for each in plan.kept]
        whole, thinned = states.count("whole"), states.count("thin")
        left = len(here) - plan.num_objects
        found.append(point(name, whole, thinned, total - plan.num_bytes, total, left))
    return found


def point(
    name: str, whole: int, thin: int, num_bytes: int, total: int, num_objects: int
) -> dict[str, Any]:
    """A line of the table, told as well."""
    frame.tell(
        f"| {name} | {whole:,} | {thin:,} | {num_bytes / 1e6:,.0f} MB | {num_bytes / total:.1%} |"
    )
    return {
        "policy": name,
        "whole": whole,
        "adapter_only": thin,
        "bytes": num_bytes,
        "of_all": num_bytes / total,
        "objects": num_objects,
    }


def timed(at: Layout) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds of each command on a copy of its own, and how many objects each program leaves."""
    same = ("--keep-last", "1", "--keep-tag", "*")
    seconds, ends = {}, {}
    for program in ("mvc", "dvc"):
        copy = Layout(at.root.parent / program)
        frame.call("cp", "-a", at.root, copy.root, cwd=at.root)
        frame.settle()
        if program == "mvc":
            seconds["plan"] = frame.call("mvc", "gc", *same, cwd=copy.root)
            seconds["apply"] = frame.call("mvc", "gc", *same, "--apply", cwd=copy.root)
            empty = ("--apply", "--empty-trash")
            seconds["empty"] = frame.call("mvc", "gc", *same, *empty, cwd=copy.root)
        else:
            dvc = ("dvc", "gc", "--workspace", "--force")
            seconds["dvc all"] = frame.call(*dvc, "--all-commits", cwd=copy.root)
            heads = ("--all-branches", "--all-tags")
            seconds["dvc heads"] = frame.call(*dvc, *heads, cwd=copy.root)
        ends[program] = len(survey.objects_in(objects.cache_folder(copy)))
        shutil.rmtree(copy.root)
        frame.tell(f"  {program}: {seconds}")
    return seconds, ends


def line(root: Path, days: int) -> Layout:
    """The model repo after so many days."""
    root.mkdir()
    at = Layout(root)
    subprocess.run(["git", "init", "-q", "-b", "main", root], check=True)
    objects.init(at)
    cache = objects.cache_folder(at)
    chance = random.Random(1)
    small = [_store(cache, name, chance.randbytes(size)) for name, size in SMALL.items()]
    stream = bytearray()
    (root / "mvc.toml").write_text(config.new_text(BaseSettings(model="x")))
    fixed = {name: (root / name).read_bytes() for name in (".dvc/config", "mvc.toml")}
    fixed[".gitignore"] = b"/.mvc\n/current_model\n/batch\n/logs\n"
    for number in range(1, days * BATCHES_A_DAY + 1):
        when = START + timedelta(minutes=10 * number)
        files = [
            *small,
            _store(cache, "adapter_model.safetensors", chance.randbytes(ADAPTER)),
            _store(cache, "optimizer.pt", chance.randbytes(MOMENTS)),
            _store(cache, "trainer_state.json", f'{{"n": {number}}}'.encode()),
        ]
        state = _folder(cache, STATE, files, record.state_meta({"n": number}, files))
        rows = [_store(cache, "day.jsonl", chance.randbytes(2_000))]
        batch = _folder(cache, "batch", rows, record.files_meta(rows))
        made = Commit("", (), "batch", number, when, "", Data("day.jsonl", rows[0].md5, 1, 1), 1,
                      number, Loss(2, 1, 1.5), Rate(1e-4, 1e-4), 1.0, (2.0, 1.0))  # fmt: skip
        words = messages.format_message(made).encode()
        stream += b"commit refs/heads/main\ncommitter A <a@b> %d +0000\n" % when.timestamp()
        stream += b"data %d\n%b\n" % (len(words), words)
        tree = {f"{each.path}.dvc": pointers.format_pointer(each) for each in (state, batch)}
        for name, text in {**(fixed if number == 1 else {}), **tree}.items():
            stream += b"M 100644 inline %b\ndata %d\n%b\n" % (name.encode(), len(text), text)
        if number % BATCHES_A_DAY == 0:
            day = f"{when - timedelta(hours=1):%Y-%m-%d}".encode()
            stream += b"tag snapshot/%b\nfrom refs/heads/main\n" % day
            stream += b"tagger A <a@b> %d +0000\ndata 1\nx\n" % when.timestamp()
    subprocess.run(["git", "fast-import", "--quiet"], cwd=root, input=bytes(stream), check=True)
    git.write(root, "reset", "-q", "--hard", "main")
    return at


def _store(cache: Path, path: str, data: bytes) -> FileDigest:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    target = objects.object_path(cache, md5)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o444)
    return FileDigest(path, len(data), md5, hashlib.sha256(data).hexdigest())


def _folder(cache: Path, name: str, files: list[FileDigest], meta: dict[str, object]) -> Pointer:
    listed = [{"md5": f.md5, "relpath": f.path} for f in sorted(files, key=lambda f: f.path)]
    stored = _store(cache, name, json.dumps(listed).encode())
    md5 = f"{stored.md5}.dir"
    objects.object_path(cache, stored.md5).rename(objects.object_path(cache, md5))
    return Pointer(name, md5, sum(f.size_bytes for f in files), len(files), meta)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
