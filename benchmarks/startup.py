"""How soon an answer comes: `mvc status`, `mvc --help`, completion, beside a bare Python.

python -m benchmarks.startup
"""

from __future__ import annotations

import statistics

from benchmarks import frame

COMPLETE = {"_MVC_COMPLETE": "bash_complete", "COMP_WORDS": "mvc sta", "COMP_CWORD": "1"}
LIMITS = {"mvc status": 0.4, "mvc --help": 0.12, "completion": 0.12}


def main() -> None:
    """Measure, write results/startup.json."""
    from tests.ops.lines import new_line

    with frame.workplace() as folder:
        root = new_line(folder / "model", batches=3).root
        found = frame.interleaved(
            {
                "mvc status": lambda: frame.call("mvc", "status", cwd=root),
                "mvc --help": lambda: frame.call("mvc", "--help", cwd=root),
                "completion": lambda: frame.call("mvc", cwd=root, **COMPLETE),
                "python": lambda: frame.call("python", "-c", "pass", cwd=root),
            },
            repeats=15,
            warm=1,
        )
    bare = statistics.median(found["python"])
    rows = [
        frame.row(f"`{name}`", f"a bare Python start of {bare:.3f} s", found[name], at_most=limit)
        for name, limit in LIMITS.items()
    ]
    frame.write("startup", rows)


if __name__ == "__main__":
    main()
