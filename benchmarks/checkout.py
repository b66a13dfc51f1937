"""Another state of the user's size: `mvc checkout` beside `git checkout` + `dvc checkout`.

One repo, two trained states of a wide LoRA, all objects in the cache. With the links that mvc sets
up (reflink, else hardlink) for both, and with copies for both, which is DVC's own default on a
file system without reflinks.

    python -m benchmarks.checkout
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import frame
from benchmarks.gap import WIDE, batches, wide_base

TURNS = 5


def main() -> None:
    """Measure, write results/checkout.json."""
    with frame.workplace() as folder:
        from mvc.ops import init

        root = init.init(folder / "model", str(wide_base(folder / "base")), sets=WIDE).root
        frame.call("mvc", "train", *batches(folder, 2, rows=2), cwd=root)
        size = sum(path.stat().st_size for path in (root / "current_model").iterdir())
        found = frame.interleaved(
            {
                "mvc, links": lambda: ours(root, "reflink,hardlink,symlink,copy"),
                "dvc, links": lambda: theirs(root, "reflink,hardlink,symlink,copy"),
                "mvc, copies": lambda: ours(root, "reflink,copy"),
                "dvc, copies": lambda: theirs(root, "reflink,copy"),
            },
            TURNS,
            warm=1,
        )
    what = f"checkout of another state of {size / 1e6:,.0f} MB"
    plain = "`git checkout` + `dvc checkout`"
    rows = [
        frame.row(
            f"{what}, as installed", f"{plain}, as installed: copies",
            found["mvc, links"], found["dvc, copies"], at_most=0.6,
            why="ours is imports, git's processes and fsyncs, whatever the state's size is; theirs "
            "copies, from memory here, so that a larger state or a slower disk makes it worse",
        ),
        frame.row(
            f"{what}, links", f"{plain}, the same links",
            found["mvc, links"], found["dvc, links"], at_most=0.6,
            why="both are mostly imports, DVC's 0.3 s among them; mvc also refuses what would be "
            "lost, checks what it brings, and journals and fsyncs each step",
        ),
        frame.row(f"{what}, links", "the clock", found["mvc, links"], at_most=0.6),
        frame.row(
            f"{what}, copies", f"{plain}, copies",
            found["mvc, copies"], found["dvc, copies"], at_most=0.6,
            why="for who sets cache.type to copy: both copy it all; mvc fsyncs what it copies",
        ),
    ]  # fmt: skip
    frame.write("checkout", rows)


def prepare(root: Path, links: str) -> None:
    """The newest state in the workspace, by the links that are asked for."""
    frame.call("dvc", "config", "--local", "cache.type", links, cwd=root)
    frame.call("mvc", "checkout", "main", cwd=root)
    frame.settle()


def ours(root: Path, links: str) -> float:
    """Seconds to go one batch back with mvc."""
    prepare(root, links)
    return frame.call("mvc", "checkout", "main~1", cwd=root)


def theirs(root: Path, links: str) -> float:
    """Seconds to go one batch back with plain git and DVC."""
    prepare(root, links)
    seconds = frame.call("git", "checkout", "-q", "main~1", cwd=root)
    return seconds + frame.call("dvc", "checkout", "-q", "--force", cwd=root)


if __name__ == "__main__":
    main()
