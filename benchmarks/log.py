"""`mvc log` over 10,000 commits: the first page, and all of them as JSON.

python -m benchmarks.log
"""

from __future__ import annotations

from benchmarks import frame
from benchmarks.lines import lengthen

COMMITS, PAGE = 10_000, 40
RICH = "import click, rich.console, rich.table, rich.text"
KEYS = (
    "Kind", "Batch", "Data", "Data-MD5", "Rows", "Tokens", "Steps", "Lifetime-Step", "Loss-First",
    "Loss-Last", "Loss-Mean", "Loss-Curve", "Rate-First", "Rate-Last", "Gate", "Seconds",
    "Rollback-To", "Warning",
)  # fmt: skip
FIELDS = "%x00".join(
    ["%H", "%P", "%cI", "%D", "%s", "%b", *(f"%(trailers:key={key},valueonly)" for key in KEYS)]
)


def main() -> None:
    """Measure, write results/log.json."""
    from tests.ops.lines import new_line

    with frame.workplace() as folder:
        at = new_line(folder / "model", batches=1)
        lengthen(at, COMMITS - 2)
        root = at.root
        page, count = f"--format={FIELDS}", str(PAGE)
        plain = "--format=%H%x00%P%x00%cI%x00%D%x00%B"
        found = frame.interleaved(
            {
                "mvc log": lambda: frame.call("mvc", "log", "-n", count, cwd=root),
                "git log + rich": lambda: (
                    frame.call("git", "log", "-n", count, plain, cwd=root)
                    + frame.call("python", "-c", RICH, cwd=root)
                ),
                "mvc log --json": lambda: frame.call("mvc", "log", "--json", cwd=root),
                "git log": lambda: frame.call("git", "log", page, cwd=root),
                "git log, raw": lambda: frame.call("git", "log", plain, cwd=root),
            },
            repeats=9,
            warm=1,
        )
    rows = [
        frame.row(
            f"`mvc log -n {PAGE}` of {COMMITS:,} commits",
            "`git log` of the same page + a Python start with click and rich",
            found["mvc log"],
            found["git log + rich"],
            at_most=1.3,
            why="above the floor: the records of mvc.types, mvc.toml and the time zone, 20 ms each",
        ),
        frame.row(
            f"`mvc log --json`, all {COMMITS:,}",
            "`git log --format` of the same fields",
            found["mvc log --json"],
            found["git log"],
            at_most=2.0,
            why="the fields are trailers, and git reads them by `%(trailers:key=...)`",
        ),
        frame.row(
            f"`mvc log --json`, all {COMMITS:,}",
            "`git log` of the raw messages, no field read",
            found["mvc log --json"],
            found["git log, raw"],
        ),
    ]
    frame.write("log", rows)


if __name__ == "__main__":
    main()
