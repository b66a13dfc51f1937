"""Thirty days of the load that mvc is made for, at a thousandth of its size, under five policies.

144 commits a day, each 969 kB of state (a third adapter, two thirds moments), a snapshot a day,
the small files the same all the time. Written through git fast-import and into the cache by hash,
as promotion would leave them: it is the keeping that is measured here, not the training.

    python benchmarks/retention.py [DAYS]      # 4.2 GB of disk for 30 days

Prints the table of README.md ("Keeping"), then the time of one `mvc gc --apply` that takes what
the last policy does not keep, and of `dvc gc` asked to keep what that left.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from mvc.ops import gc, record
from mvc.settings import BaseSettings, KeepSettings, ThinSettings
from mvc.store import config, git, history, objects, pointers, survey
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
    """Make the line, print the table, time one gc."""
    folder = Path(tempfile.mkdtemp(prefix="retention-", dir=Path.cwd()))
    try:
        at = line(folder / "model", days)
        now = START + timedelta(days=days)
        settings = config.load(at)
        total = sum(survey.objects_in(objects.cache_folder(at)).values())
        tell(
            "| policy | commits whole | adapter only | bytes kept | of all |\n|---|---|---|---|---|"
        )
        count = days * BATCHES_A_DAY
        tell(f"| everything | {count:,} | 0 | {total / 1e6:,.0f} MB | 100% |")
        for name, keep, thin in POLICIES:
            rules = msgspec.structs.replace(
                settings, keep=msgspec.structs.replace(keep, undo=0), thin=thin
            )
            plan = gc.gc(at, settings=rules, now=now).plan
            kept = [each.state for each in plan.kept]
            left = total - plan.num_bytes
            tell(
                f"| {name} | {kept.count('whole'):,} | {kept.count('thin'):,} "
                f"| {left / 1e6:,.0f} MB | {left / total:.1%} |"
            )
        began = time.monotonic()
        gc.gc(at, settings=rules, now=now)
        tell(f"mvc gc (the plan): {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        done = gc.gc(at, settings=rules, now=now, apply=True)
        seconds = time.monotonic() - began
        tell(f"mvc gc --apply: {seconds:.1f} s for {done.plan.num_objects:,} objects")
        for words in (("-a", "-T"), ("-A",)):  # branches and tags; all commits
            began = time.monotonic()
            said = subprocess.run(
                [sys.executable, "-m", "dvc", "gc", "-w", *words, "--dry", "-f"],
                cwd=at.root, capture_output=True, text=True, check=False,
            )  # fmt: skip
            last = (said.stdout + said.stderr).strip().splitlines()[-1:]
            tell(f"dvc gc -w {' '.join(words)} --dry: {time.monotonic() - began:.1f} s {last}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tell(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


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
        words = history.format_message(made).encode()
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
