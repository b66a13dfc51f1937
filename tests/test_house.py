"""The house of DESIGN.md section 4: small files, floors, everything public explained.

And nothing of the machine that it was written on.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
PUBLIC_INDEXES = {"pypi.org", "files.pythonhosted.org"}
# A folder of whoever wrote this, at the beginning of a path; put together here, so that this file
# does not hold what it forbids. /home is absent: an example may well say /home/ada.
PRIVATE_FOLDERS = ["/" + name for name in ("root/", "work/", "tmp/v/", "opt/pypi", "opt/wheels")]


def tracked() -> list[Path]:
    """What git tracks or would track here."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0")[:-1] if (ROOT / name).is_file()]


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_file_is_too_long() -> None:
    lengths = {p: len(p.read_text().splitlines()) for p in sources("mvc", "tests", "benchmarks")}
    assert len(lengths) > 50
    assert not {str(p): n for p, n in lengths.items() if n > MOST_LINES}


def bare(path: Path) -> Iterator[str]:
    """Public names of a module that say nothing about themselves."""

    def look(node: ast.AST, name: str) -> Iterator[str]:
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and not ast.get_docstring(node):
            yield name
        if isinstance(node, ast.Module | ast.ClassDef):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, kinds) and not child.name.startswith("_"):
                    yield from look(child, f"{name}.{child.name}")

    yield from look(ast.parse(path.read_text()), path.relative_to(ROOT).as_posix())


def test_everything_public_is_explained() -> None:
    assert not [name for path in sources("mvc") for name in bare(path)]


def test_a_name_without_words_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_house.ROOT", tmp_path)
    text = '"""Words."""\ndef f(): ...\nclass A:\n    """Words."""\n    def g(self): ...\n'
    (tmp_path / "a.py").write_text(text + "    def _h(self): ...\n")
    assert list(bare(tmp_path / "a.py")) == ["a.py.f", "a.py.A.g"]


def test_imports_point_down_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of pyproject.toml, by import-linter."""
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_no_module_of_mvc_stands_outside_the_floors() -> None:
    """A new folder without a contract would be free to import anything."""
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = {name.strip() for row in settings["contracts"][0]["layers"] for name in row.split("|")}
    modules = [p for p in (ROOT / "mvc").iterdir() if p.suffix in ("", ".py")]
    assert {f"mvc.{p.stem}" for p in modules if p.stem[0] not in "_."} == layers


def test_every_verb_has_its_place_in_cli_ops_and_render() -> None:
    """`mvc diff` is cli/diff.py and ops/diff.py; demo and daemon are made of other verbs."""
    verbs = {p.stem for p in (ROOT / "mvc" / "cli").glob("*.py")}
    verbs -= {"__init__", "main", "context", "stopping", "demo", "snapshots", "watch"}
    assert verbs <= {p.stem for p in (ROOT / "mvc" / "ops").glob("*.py")}


def index_hosts() -> set[str]:
    """Where this machine's pip and uv look for packages, other than the public index."""
    texts = [value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))]
    for file in ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf"):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(Path(file).expanduser())
        texts += [value for section in parser.values() for value in section.values()]
    urls = [word for text in texts for word in text.split() if "://" in word]
    hosts = {urlsplit(url).hostname for url in urls}
    return {host for host in hosts if host} - PUBLIC_INDEXES


def test_nothing_of_the_writer_s_machine_is_tracked() -> None:
    folders = "|".join(map(re.escape, PRIVATE_FOLDERS))
    hosts = "|".join(map(re.escape, index_hosts())) or r"(?!)"
    forbidden = re.compile(rf"(?<![\w.~-])(?:{folders})|{hosts}".encode())
    found = {
        path.relative_to(ROOT).as_posix(): hit[0].decode()
        for path in tracked()
        if (hit := forbidden.search(path.read_bytes()))
    }
    assert not found
    assert forbidden.search(b"see " + PRIVATE_FOLDERS[0].encode() + b"x")
    assert not forbidden.search(b"a/" + PRIVATE_FOLDERS[1].encode().strip(b"/") + b"/x")


def test_the_lock_file_names_public_indexes_only() -> None:
    """A lock made behind a mirror would not install anywhere else."""
    locks = [p for p in tracked() if re.search(r"(^|[.-])lock\b|requirements", p.name)]
    for path in locks:
        hosts = {
            urlsplit(url).hostname for url in re.findall(r"https?://[^\s\"']+", path.read_text())
        }
        named = {h for h in hosts if h} - PUBLIC_INDEXES
        assert not named, path.name
