"""Writes the table of README.md from results/*.json, and ratios.csv for the plot.

python -m benchmarks.table
"""

from __future__ import annotations

import csv
import json
import re
from typing import Any

from benchmarks.frame import RESULTS

README = RESULTS.parent / "README.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
BY_HAND = ("commit-peers", "gap-smollm2-135m", "gpu", "retention", "soak")
# The order of the table; what is not named here comes after.
ORDER = (
    "commit",
    "commit-peers",
    "checkout",
    "gap",
    "steps",
    "packing",
    "memory",
    "log",
    "growth",
    "startup",
    "sharing",
    "gpu",
)


def main() -> None:
    """Read, write both."""
    paths = sorted(RESULTS.glob("*.json"), key=lambda path: (_place(path.stem), path.stem))
    found = [(path, json.loads(path.read_text())) for path in paths]
    found = [(path, each) for path, each in found if "rows" in each]
    rows = [row for _, each in found for row in each["rows"]]
    abouts: dict[str, list[str]] = {}
    for path, each in found:
        abouts.setdefault("; ".join(each["about"]), []).append(path.stem)
    lines = ["| what | against | target | figure | spread | ours | theirs | verdict |"]
    lines += ["|---|---|---|---|---|---|---|---|", *map(line, rows)]
    lines += ["", *(f"{', '.join(of)}: on {about}.\n" for about, of in abouts.items())]
    took = {path.stem: each["seconds"] for path, each in found if path.stem not in BY_HAND}
    each_took = ", ".join(f"{name} {seconds} s" for name, seconds in took.items())
    lines += [f"`make bench` took {sum(took.values()) / 60:.0f} min: {each_took}.", ""]
    notes = [
        f"- {row['what']}, against {row['against']}: {row['why']}" for row in rows if row["why"]
    ]
    lines += [*notes, ""] if notes else []
    text = "\n".join(lines).rstrip()
    old = README.read_text()
    between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not between.search(old):
        raise SystemExit(f"{README} has no place for the table: {BEGIN} ... {END}")
    README.write_text(between.sub(lambda _: f"{BEGIN}\n{text}\n{END}", old))
    with (README.parent / "ratios.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "of_target"])
        for row in rows:
            if row["target"] and row["ratio"] is not None:
                bound = float(row["target"].split()[2])
                least = "least" in row["target"]
                share = bound / row["ratio"] if least else row["ratio"] / bound
                writer.writerow([f"{row['what']} / {row['against']}", f"{share:.3f}"])


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def line(row: dict[str, Any]) -> str:
    """One row in Markdown."""
    spread = "" if row["ratio"] is None else f"{_short(row['low'])} to {_short(row['high'])}"
    cells = (
        row["what"], row["against"], row["target"], f"**{_short(row['ratio'])}**", spread,
        _short(row["ours"], row["unit"]), _short(row["theirs"], row["unit"]), row["verdict"],
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _short(figure: float | None, unit: str = "") -> str:
    if figure is None:
        return "-"
    digits = 0 if abs(figure) >= 100 else 2 if abs(figure) >= 1 else 3
    return f"{figure:,.{digits}f} {unit}".strip()


if __name__ == "__main__":
    main()
