"""`python -m mvc`: the command, for launchers that start a module (`torchrun -m mvc train ...`).

`python -m` looks for modules in the working directory first, and there a cloned repo may have a
`click.py`: nothing is imported before that is undone.
"""

import os
import sys


def _leave_working_directory() -> None:
    """Take the working directory off the path, unless mvc itself was found there."""
    # Without pathlib: that would be imported from there.
    here, ours = os.getcwd(), os.path.dirname(os.path.dirname(__file__))  # noqa: PTH109, PTH120
    if not sys.flags.safe_path and sys.path[0] == here != ours:
        del sys.path[0]


if __name__ == "__main__":
    _leave_working_directory()
    from mvc.cli.main import main

    main()
