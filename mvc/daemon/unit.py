"""The systemd user unit that runs `mvc watch` from the machine's start on.

Owns its text, name and place. Every path in it is absolute, as it is where it is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mvc.errors import StoreError, UsageError
from mvc.store.files import atomic_write
from mvc.store.layout import Layout

_CARRIED = ("PATH", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES")
"""What the daemon needs of the environment that it is installed from: git, the base, the device."""

_TEXT = """\
[Unit]
Description=mvc watch: trains what arrives in {description}
# It goes on whatever happened; what it cannot mend it waits for by itself.
StartLimitIntervalSec=0

[Service]
WorkingDirectory={root}
{environment}ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=10
# Flags that are wrong stay wrong.
RestartPreventExitStatus=2
# The step in progress ends and its checkpoint is kept; what is killed later is resumed as well.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec=120

[Install]
WantedBy=default.target
"""


class Unit(msgspec.Struct, frozen=True):
    """A unit that may be installed."""

    name: str
    path: Path
    text: str

    @property
    def commands(self) -> tuple[str, ...]:
        """What the user runs to start it, now and whenever the machine starts."""
        return (
            f"systemctl --user daemon-reload && systemctl --user enable --now {self.name}",
            "loginctl enable-linger    # so that it runs while you are not logged in",
        )


def unit(
    at: Layout,
    inbox: Path,
    metrics_port: int | None = None,
    *,
    program: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Unit:
    """The unit of a repo's daemon.

    Args:
        at: the model repo.
        inbox: the folder to watch.
        metrics_port: as of `mvc watch --metrics`.
        program: how mvc is called; by default the script beside this Python.
        environment: the variables of which some are carried over.

    Raises:
        UsageError: a path cannot stand in a unit: it holds a control character, or ends so that
            systemd would read it otherwise.
    """
    root, inbox = at.root.resolve(), inbox.resolve()
    words = [*(program or _program()), "watch", str(inbox)]
    words += ["--metrics", str(metrics_port)] if metrics_port is not None else []
    carried = [f"{name}={environment[name]}" for name in _CARRIED if environment.get(name)]
    for text in (str(root), *words, *carried):
        # A unit's lines end where they end: not with a space, nor with a backslash.
        if not text.isprintable() or text != text.strip().rstrip("\\"):
            raise UsageError(
                f"{text!r} cannot stand in a unit of systemd",
                "rename it, without control characters, and with a letter at its end",
            )
    text = _TEXT.format(
        description=_percent(str(inbox)),
        root=_percent(str(root)),
        environment="".join(f"Environment={_quoted(each)}\n" for each in carried),
        command=" ".join(_quoted(word).replace("$", "$$") for word in words),
    )
    folder = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    name = f"mvc-{re.sub(r'[^A-Za-z0-9_.-]', '-', root.name)}"
    path = folder / "systemd" / "user" / f"{name}.service"
    if path.exists() and f"\nWorkingDirectory={_percent(str(root))}\n" not in path.read_text():
        # Another repo of the same name was here first.
        name += f"-{hashlib.sha256(str(root).encode()).hexdigest()[:6]}"
        path = path.with_name(f"{name}.service")
    return Unit(name, path, text)


def install(unit: Unit) -> None:
    """Write the unit where systemd looks for it; an older one of the same repo is replaced.

    Raises:
        StoreError: the folder cannot be written to.
        DiskFull: there is no room.
    """
    try:
        atomic_write(unit.path, unit.text.encode())
    except OSError as error:
        raise StoreError(
            f"{unit.path} cannot be written: {error.strerror or error}",
            "write it yourself: `mvc watch INBOX --print` shows the text",
        ) from error


def _program() -> list[str]:
    beside = shutil.which("mvc", path=str(Path(sys.executable).parent))
    return [beside or str(Path(sys.argv[0]).absolute())]


def _quoted(word: str) -> str:
    """A word as a unit's command line reads it."""
    text = _percent(word).replace("\\", "\\\\").replace('"', '\\"')
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text) else f'"{text}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")
