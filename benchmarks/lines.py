"""Long lines: thousands of commits as mvc writes them, made by one `git fast-import`.

Every commit has a small state of its own in the cache. The last one has the real state that the
line had before, so that training goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mvc.ops import record
from mvc.store import git, history, messages, objects, workspace
from mvc.store.layout import Layout
from mvc.types import Commit, Data, FileDigest, Loss, Rate

START = datetime(2026, 1, 1, tzinfo=UTC)


def lengthen(at: Layout, count: int) -> None:
    """Add `count` batches to `main`, ten minutes apart, the last with the state of today's HEAD."""
    cache = objects.cache_folder(at)
    last = history.commit(at.root)
    real = {
        f"{pointer.path}.dvc": objects.format_pointer(pointer)
        for pointer in workspace.pointers_of(at.root, last.commit)
    }
    stream = bytearray()
    for number in range(1, count + 1):
        when = START + timedelta(minutes=10 * number)
        tree = real if number == count else {
            "current_model.dvc": _pointer(cache, "current_model", {
                "adapter_model.safetensors": b"adapter %d" % number,
                "optimizer.pt": b"moments %d" % number,
                "trainer_state.json": b"{}",
            }),
            "batch.dvc": _pointer(cache, "batch", {f"day-{number}.jsonl": b"rows %d" % number}),
        }  # fmt: skip
        made = Commit(
            "", (), "batch", (last.batch or 0) + number, when, "",
            data=Data(f"day-{number}.jsonl", f"{number:032x}", 100, 4000),
            steps=10, lifetime_step=last.lifetime_step, loss=Loss(2.5, 2.25, 2.375),
            learning_rate=Rate(1e-4, 1e-4), seconds=60.5,
            curve=tuple(2.5 - step / 100 for step in range(25)),
        )  # fmt: skip
        words = messages.format_message(made).encode()
        stream += b"commit refs/heads/main\ncommitter Ada <ada@example.org> "
        stream += b"%d +0000\ndata %d\n%b\n" % (when.timestamp(), len(words), words)
        stream += b"from refs/heads/main^0\n" if number == 1 else b""
        for name, text in tree.items():
            stream += b"M 100644 inline %b\ndata %d\n%b\n" % (name.encode(), len(text), text)
    subprocess.run(["git", "fast-import", "--quiet"], cwd=at.root, input=bytes(stream), check=True)
    git.write(at.root, "reset", "-q", "--hard", "main")


def _pointer(cache: Path, name: str, contents: dict[str, bytes]) -> bytes:
    """Store a folder and return its pointer's text, as `format_pointer` would make it."""
    files = [_store(cache, path, data) for path, data in sorted(contents.items())]
    listed = json.dumps([{"md5": each.md5, "relpath": each.path} for each in files]).encode()
    md5 = _store(cache, name, listed, ".dir").md5
    meta = record.files_meta(files)["files"]
    lines = [
        f"outs:\n- md5: {md5}.dir\n  size: {sum(each.size_bytes for each in files)}",
        f"  nfiles: {len(files)}\n  hash: md5\n  path: {name}\nmeta:\n  files:",
    ]
    for path, entry in meta.items():
        lines += [f"    {path}:", *(f"      {key}: {value}" for key, value in entry.items())]
    return ("\n".join(lines) + "\n").encode()


def _store(cache: Path, path: str, data: bytes, suffix: str = "") -> FileDigest:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    target = objects.object_path(cache, md5 + suffix)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o444)
    return FileDigest(path, len(data), md5, hashlib.sha256(data).hexdigest())
