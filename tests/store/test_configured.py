"""DVC's configuration is read as DVC reads it, and as the guard against strangers' does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvc.errors import StoreError
from mvc.store import configured, foreign
from mvc.store.layout import Layout

REMOTE = "['remote \"x\"']\n"


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    for level in ("SYSTEM", "GLOBAL"):
        (tmp_path / level).mkdir()
        monkeypatch.setenv(f"DVC_{level}_CONFIG_DIR", str(tmp_path / level))
    (tmp_path / "model" / ".dvc").mkdir(parents=True)
    return Layout(tmp_path / "model")


def of_dvc(at: Layout) -> dict[str, Any]:
    from dvc.config import Config

    found: dict[str, Any] = Config(str(at.root / ".dvc"), validate=False).load_config_to_level()
    return found


URLS = st.sampled_from(
    ["/a/b", "/a/link/../b", "../store", "sub/dir", "~/store", "~nobody-here/x", "s3://b/k", "."]
)
BREAKS = st.sampled_from(["\n", "\r\n", "\r", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"])
LINES = st.one_of(
    URLS.map(lambda url: f"url = {url}"),
    st.sampled_from(["[core]", "[cache]", "['remote \"x\"']", "['REMOTE \"Y\"']", "[Core]"]),
    st.sampled_from(["remote = x", "Remote = y", "remote =", "dir = /c", "type = reflink, copy"]),
    st.sampled_from(["# a comment", "note = '''", "'''", "profile = p # q", 'user = "a, b"']),
)
TEXTS = st.lists(st.tuples(LINES, BREAKS), max_size=9).map(
    lambda pairs: "".join(line + end for line, end in pairs)
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(repo=TEXTS, local=TEXTS, user=TEXTS)
def test_what_is_read_is_what_dvc_reads(at: Layout, repo: str, local: str, user: str) -> None:
    places = {".dvc/config": repo, ".dvc/config.local": local, "../GLOBAL/config": user}
    for name, text in places.items():
        (at.root / name).write_text(text, newline="")
    configured._parsed.cache_clear()  # the same second and size, other words
    try:
        theirs = of_dvc(at)
    except Exception:  # it refuses the file in one way or another
        return
    told = {
        name: {key: configured._text(value) for key, value in options.items()}
        for name, options in theirs["remote"].items()
    }
    assert configured.remotes(at) == told
    for section, option in (("core", "remote"), ("cache", "dir")):
        ours = configured.option(at, section, option)
        said = theirs.get(section, {}).get(option) or None
        if option != "dir":  # DVC makes it absolute, and mvc where it is used
            assert (ours and ours[0]) == said


def test_a_line_separator_hides_no_option_from_the_guard(at: Layout) -> None:
    for mark in ("\u2028", "\r", "\x0c"):
        hidden = (
            f"[core]\nremote = x #{mark}analytics = '''\n{REMOTE}url = ssh://evil/p\n#{mark}'''\n"
        )
        (at.root / ".dvc" / "config").write_text(hidden, newline="")
        configured._parsed.cache_clear()
        seen = foreign.remote_options(hidden.encode(), "x")
        assert configured.remotes(at).get("x", {}) == seen, repr(mark)


def test_the_last_level_counts_and_an_empty_value_too(at: Layout) -> None:
    dvc = at.root / ".dvc"
    (dvc / "config").write_text(f"[core]\nremote = x\n{REMOTE}url = ../store\njobs = 3\n")
    (dvc / "config.local").write_text(f"[core]\nremote =\n{REMOTE}url = /mine\n")
    assert configured.option(at, "core", "remote") is None
    assert configured.remotes(at) == {"x": {"url": "/mine", "jobs": "3"}}
    assert configured.remotes(at, ("repo",))["x"]["url"] == str(at.root / "store")


@pytest.mark.parametrize(
    "content",
    ["[core\n", f"{REMOTE}url = /data/a, b\n", b"\xff\xfe"],
    ids=["syntax", "list", "bytes"],
)
def test_what_cannot_be_read_is_told(at: Layout, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (at.root / ".dvc" / "config").write_bytes(data)
    with pytest.raises(StoreError, match="config"):
        configured.remotes(at)


def test_a_file_of_somebody_else_s_is_told(at: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    file = at.root / ".dvc" / "config.local"
    file.write_text(REMOTE)
    read = Path.read_text

    def refuse(path: Path, *args: Any, **words: Any) -> str:
        if path == file:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return read(path, *args, **words)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        configured.remotes(at)
