"""The systemd unit, as systemd itself reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mvc.daemon import unit
from mvc.errors import StoreError, UsageError
from mvc.store.layout import Layout

NAMES = ["model", "my model", 'a"b', "100%", "a$HOME", "back\\slash", "größe", "it's; rm"]


def made(tmp_path: Path, name: str = "model", **more: object) -> unit.Unit:
    root = tmp_path / name
    (root / "inbox").mkdir(parents=True, exist_ok=True)
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "PATH": "/usr/bin:/bin"}
    words: dict[str, object] = {"program": ["/bin/true"], "environment": home, **more}
    return unit.unit(Layout(root), root / "inbox", **words)  # type: ignore[arg-type]


def test_the_text(tmp_path: Path) -> None:
    told = made(tmp_path, metrics_port=9117)
    root = (tmp_path / "model").resolve()
    assert told.name == "mvc-model"
    assert told.path == tmp_path / "config" / "systemd" / "user" / "mvc-model.service"
    lines = told.text.splitlines()
    for line in (
        f"WorkingDirectory={root}",
        f"ExecStart=/bin/true watch {root}/inbox --metrics 9117",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=always",
        "KillSignal=SIGTERM",
        "Environment=PATH=/usr/bin:/bin",
        "WantedBy=default.target",
    ):
        assert line in lines
    assert not any(line.startswith("Environment=HF") for line in lines)
    assert "enable --now mvc-model" in told.commands[0]


def test_the_default_program_is_the_mvc_beside_this_python(tmp_path: Path) -> None:
    (line,) = [x for x in made(tmp_path, program=None).text.splitlines() if "ExecStart" in x]
    program = Path(line.removeprefix("ExecStart=").split()[0])
    assert program.is_absolute()
    assert program.name == "mvc"
    assert program.exists()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_systemd_takes_it_without_a_word(name: str, tmp_path: Path) -> None:
    told = made(tmp_path, name)
    unit.install(told)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", told.path], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_would_say_what_is_wrong(tmp_path: Path) -> None:
    told = made(tmp_path)
    wrong = told.text.replace("Restart=always", "Restart=perhaps").replace("/bin/true", "/no/such")
    unit.install(unit.Unit(told.name, told.path, wrong))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", told.path], capture_output=True, text=True
    )
    assert "perhaps" in checked.stderr
    assert "/no/such" in checked.stderr


def test_installing_again_replaces_its_own_and_no_other(tmp_path: Path) -> None:
    first = made(tmp_path / "a")
    unit.install(first)
    again = made(tmp_path / "a", metrics_port=9117)
    assert again.path == first.path
    home = {"XDG_CONFIG_HOME": str(tmp_path / "a" / "config")}
    other = made(tmp_path / "b", environment=home)
    assert other.path.parent == first.path.parent
    assert other.name.startswith("mvc-model-")
    unit.install(other)
    unit.install(again)
    assert "--metrics 9117" in first.path.read_text()
    assert str(tmp_path / "b") in other.path.read_text()
    assert made(tmp_path / "b", environment=home).path == other.path


@pytest.mark.parametrize("name", ["a\nExecStart=evil", "a\\", "a "])
def test_a_path_that_no_unit_can_say_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot stand in a unit"):
        made(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "folder", "word"),
    [
        ("my model", "my model", '"{}/my model/inbox"'),
        ("100%", "100%%", "{}/100%%/inbox"),
        ("a$HOME", "a$HOME", '"{}/a$$HOME/inbox"'),
        ('a"b', 'a"b', '"{}/a\\"b/inbox"'),
        ("back\\slash", "back\\slash", '"{}/back\\\\slash/inbox"'),
    ],
)
def test_what_systemd_would_read_otherwise_is_quoted(
    name: str, folder: str, word: str, tmp_path: Path
) -> None:
    """systemd.service(5), "COMMAND LINES": quotes, backslashes, `%` and `$`; a folder has no
    quotes."""
    lines = made(tmp_path, name).text.splitlines()
    assert f"WorkingDirectory={tmp_path}/{folder}" in lines
    assert f"ExecStart=/bin/true watch {word.format(tmp_path)}" in lines


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    told = made(tmp_path)
    (tmp_path / "config").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        unit.install(told)
    assert "--print" in caught.value.hint
