"""`mvc log` over 10,000 commits: the first page, and all of them as JSON.

python -m benchmarks.log
"""

from __future__ import annotations

from benchmarks import frame
from benchmarks.lines import lengthen

COMMITS, PAGE = 10_000, 40
RICH = "import click, rich.console, rich.table, rich.text"
FIELDS = "%H%x00%P%x00%cI%x00%D%x00%s%x00%(trailers:only,unfold)"


def main() -> None:
    """Measure, write results/log.json."""
    from tests.ops.lines import new_line

    with frame.workplace() as folder:
        at = new_line(folder / "model", batches=1)
        lengthen(at, COMMITS - 2)
        root = at.root
        fields, count = f"--format={FIELDS}", str(PAGE)
        found = frame.interleaved(
            {
                "mvc log": lambda: frame.call("mvc", "log", "-n", count, cwd=root),
                "git log + rich": lambda: (
                    frame.call("git", "log", "-n", count, fields, cwd=root)
                    + frame.call("python", "-c", RICH, cwd=root)
                ),
                "terminal": lambda: frame.shown("mvc", "log", "-n", count, cwd=root),
                "git log + rich, terminal": lambda: (
                    frame.shown("git", "--no-pager", "log", "-n", count, fields, cwd=root)
                    + frame.shown("python", "-c", RICH, cwd=root)
                ),
                "mvc log --json": lambda: frame.call("mvc", "log", "--json", cwd=root),
                "git log": lambda: frame.call("git", "log", fields, cwd=root),
                "python": lambda: frame.call("python", "-c", RICH, cwd=root),
            },
            repeats=9,
            warm=1,
        )
    rows = [
        frame.row(
            f"`mvc log -n {PAGE}` of {COMMITS:,} commits, into a pipe",
            "`git log` of the same page + a Python start with click and rich",
            found["mvc log"],
            found["git log + rich"],
            at_most=1.3,
            why="above the floor: msgspec, mvc.toml, mvc's own modules, a second "
            "git; some 10 ms each",
        ),
        frame.row(
            f"`mvc log -n {PAGE}` of {COMMITS:,} commits, on a terminal",
            "the same, on a terminal",
            found["terminal"],
            found["git log + rich, terminal"],
            at_most=1.3,
            why="rich's console is imported, and writes colours line by line",
        ),
        frame.row(
            f"`mvc log --json`, all {COMMITS:,}",
            "`git log --format` of the same fields",
            found["mvc log --json"],
            found["git log"],
            at_most=2.0,
            why="git prints the trailers as text; mvc reads numbers out of them, marks what is odd "
            "in each commit and writes JSON: 25 us a commit, partly beside git",
        ),
        frame.row(
            f"`mvc log --json`, all {COMMITS:,}",
            "the same and a Python start with click and rich",
            found["mvc log --json"],
            [a + b for a, b in zip(found["git log"], found["python"], strict=True)],
        ),
    ]
    frame.write("log", rows)


if __name__ == "__main__":
    main()
