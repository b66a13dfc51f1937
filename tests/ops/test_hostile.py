"""A stranger's repo: nothing of it runs, nothing leaves it, memory is bounded, and it is said.

Here what checkout meets: pointers, lists of files, links, what git tracks, DVC's configuration.
`test_hostile_states` has what training would open.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from mvc.errors import MvcError
from mvc.ops import checkout, snapshot, status
from tests.ops.lines import content, git, new_line
from tests.ops.strangers import Case, Stranger, Victim, refused

REMOTE = "'remote \"r\"'"
EMPTY = "d41d8cd98f00b204e9800998ecf8427e"


def named(path: str, folder: str = "current_model") -> Case:
    """One more file in the list, with this name."""
    return lambda s: s.listing(
        [*s.entries(folder), {"md5": s.entries(folder)[0]["md5"], "relpath": path}], folder
    )


def bare(folder: str, into: str = "") -> Case:
    """A bare repository below the folder, as git would find it."""
    paths = [f"{into}{name}" for name in ("HEAD", "config", "objects/x", "refs/heads/x")]
    return lambda s: s.listing(
        [*s.entries(folder), *({"md5": s.entries(folder)[0]["md5"], "relpath": p} for p in paths)],
        folder,
    )


def dvc_config(section: str, *options: str) -> Case:
    """More options in a section of the tracked .dvc/config, which may be there already."""

    def change(s: Stranger) -> None:
        text = (s.root / ".dvc" / "config").read_text()
        head = f"[{section}]\n"
        lines = "".join(f"    {o.format(command=s.command, outside=s.outside)}\n" for o in options)
        text = text.replace(head, head + lines) if head in text else text + head + lines
        s.write(".dvc/config", text)

    return change


def bomb(depth: int = 40) -> str:
    """YAML whose aliases unfold to 2 ** depth values."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, depth)]
    return "".join(f"  {line}\n" for line in lines)


def journal(s: Stranger) -> None:
    """An operation in progress whose recovery would remove a lock file far away."""
    entry = {"op": "promote", "was": None, "old": None, "new": "0" * 40, "pid": 999_999_999}
    entry |= {"ref": f"refs/heads/../../../..{s.outside}/HEAD", "head": "", "partial": False}
    s.write(".mvc/journal.json", json.dumps(entry))


def aws(s: Stranger) -> None:
    """An AWS file in the repo that names a program for credentials."""
    s.write("aws.ini", f"[default]\ncredential_process = {s.command}\n")
    dvc_config(REMOTE, "url = s3://b/p", "configpath = ../aws.ini")(s)


CASES: dict[str, Case] = {
    # the list of files
    "list: up": named("../../outside/x"),
    "list: absolute": lambda s: named(f"{s.outside}/x")(s),
    "list: up, in the batch": named("../.git/hooks/pre-commit", "batch"),
    "list: hidden in the middle": named("sub/../../../outside/x"),
    "list: settings of git": named(".git/config"),
    "list: settings of git, in the batch": named("sub/.git/config", "batch"),
    "list: a link to settings of git": named(".git"),
    "list: settings in capitals": named("sub/.GIT./config"),
    "list: settings by a short name": named("GIT~1/config"),
    "list: settings in a stream": named(".git::$INDEX_ALLOCATION/config"),
    "list: settings with a character without a shape": named(".g\u200cit/config"),
    "list: settings of DVC": named(".dvc/config"),
    "list: settings of mvc": named("sub/.mvc /journal.json"),
    "list: a bare repository": bare("current_model"),
    "list: a bare repository, in the batch": bare("batch", "sub/"),
    "list: a repository whose objects are elsewhere": lambda s: s.listing(
        [{"md5": EMPTY, "relpath": p} for p in ("HEAD", "commondir", "x/config")]
    ),
    "list: backslash": named("..\\outside\\x"),
    "list: NUL": named("x\0y"),
    "list: surrogate": named("\ud800"),
    "list: a name too long": named("x" * 300),
    "list: a path too long": named("/".join(["x"] * 3000)),
    "list: file and folder at once": named("optimizer.pt/x"),
    "list: twice": named("optimizer.pt"),
    "list: md5 with a path": lambda s: s.listing(
        [{"md5": "../../../../../../etc/passwd", "relpath": "x"}]
    ),
    "list: deep": lambda s: s.listing(b"[" * 1_000_000),
    "list: vast": lambda s: s.listing(b" " * (70 << 20) + b"[]"),
    "list: a number": lambda s: s.listing(b"1" + b"0" * 100_000),
    "list: an odd size": lambda s: s.listing([{"md5": EMPTY, "relpath": "x", "size": -1}]),
    # pointers
    "pointer: hooks": lambda s: s.pointer("path: current_model", "path: .git/hooks"),
    "pointer: up": lambda s: s.pointer("path: current_model", "path: ../outside"),
    "pointer: absolute": lambda s: s.pointer("path: current_model", f"path: {s.outside}"),
    "pointer: the folder of DVC": lambda s: s.pointer("path: current_model", "path: .DVC/tmp"),
    "pointer: another folder": lambda s: s.pointer("path: current_model", "path: src"),
    "pointer: md5 with a path": lambda s: s.pointer("md5: ", "md5: ../../../etc/passwd # "),
    "pointer: a single file": lambda s: s.pointer(".dir", ""),
    "pointer: meta goes up": lambda s: s.pointer("    optimizer.pt:", "    ../../outside/x:"),
    "pointer: meta has settings of git": lambda s: s.pointer(
        "    optimizer.pt:", "    .git/config:"
    ),
    "pointer: a huge size": lambda s: s.pointer("size: 60000", f"size: {1 << 60}"),
    "pointer: a size that is no number": lambda s: s.pointer("size: 60000", "size: [1]"),
    "pointer: deep": lambda s: s.write("current_model.dvc", "[" * 200_000),
    "pointer: deep by indent": lambda s: s.write(
        "current_model.dvc", "".join(" " * i + "a:\n" for i in range(2000))
    ),
    "pointer: code": lambda s: s.write(
        "current_model.dvc", f"outs: !!python/object/apply:os.system ['{s.command}']\n"
    ),
    "pointer: a bomb of aliases": lambda s: s.pointer("meta:\n", f"meta:\n{bomb()}"),
    "pointer: vast": lambda s: s.write("current_model.dvc", "# " + "x" * (40 << 20) + "\n"),
    "pointer: not UTF-8": lambda s: s.write("current_model.dvc", b"outs: \xff\xfe"),
    # links, and what git must not track
    "link: the state": lambda s: s.link("current_model", s.outside),
    "link: mvc.toml": lambda s: s.link("mvc.toml", "/etc/passwd"),
    "link: DVC's folder": lambda s: s.link(".dvc", s.outside),
    "link: mvc's folder": lambda s: s.link(".mvc", s.outside),
    "link: the log folder": lambda s: s.link("logs", s.outside),
    "link: metrics.json": lambda s: s.link("metrics.json", s.outside / "HEAD.lock"),
    "link: below the batch": lambda s: s.link("batch/sub", s.outside),
    "tracked: a journal": journal,
    "tracked: a file in the state": lambda s: s.stage("100644", "x", "current_model/optimizer.pt"),
    "tracked: DVC's local settings": lambda s: s.stage(
        "100644", f"[cache]\n    dir = {s.outside}\n", ".dvc/config.local"
    ),
    "tracked: DVC's own files": lambda s: s.stage("100644", "x", ".dvc/tmp/lock"),
    "tracked: the folder in capitals": lambda s: s.stage("100644", "{}", ".MVC/journal.json"),
    "tracked: a submodule": lambda s: git(
        s.root, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},batch"
    ),
    "tracked: a vast mvc.toml": lambda s: s.write("mvc.toml", "#" * (20 << 20)),
    # DVC's configuration
    "DVC: its caches, which are pickles": dvc_config("core", "site_cache_dir = {outside}"),
    "DVC: the cache elsewhere": dvc_config("cache", "dir = {outside}"),
    "DVC: the cache in git's folder": dvc_config("cache", "dir = ../.git/hooks"),
    "DVC: a state folder": dvc_config("state", "dir = {outside}"),
    "DVC: a command for a token": dvc_config(
        REMOTE, "url = webdavs://h/p", "bearer_token_command = {command}"
    ),
    "DVC: a command for credentials": aws,
    "DVC: plugins": dvc_config("hydra", "plugins_path = ../p", "enabled = true"),
    "DVC: Google's token to another server": dvc_config(
        REMOTE, "url = gs://b/p", "endpointurl = http://127.0.0.1:1"
    ),
    "DVC: no certificate check": dvc_config(REMOTE, "url = https://h/p", "ssl_verify = false"),
    "git's submodules: no settings": lambda s: s.write(".gitmodules", "[submodule 'x']\n[[["),
    "DVC: a value that it does not take": dvc_config("core", "checksum_jobs = many"),
    "DVC: no settings": lambda s: s.write(".dvc/config", b"[[[[\n\xff"),
}


@pytest.fixture
def stranger(tmp_path: Path) -> Stranger:
    return Stranger(new_line(tmp_path / "stranger", 2), tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_a_checkout_refuses(stranger: Stranger, case: str) -> None:
    honest = git(stranger.root, "rev-parse", "HEAD")
    CASES[case](stranger)
    hostile = stranger.commit()
    victim = Victim(stranger, honest)
    before, state = victim.everything_else(), content(victim.at.state)
    code, said = victim.run("checkout", hostile)
    assert (code, refused(said)) == (1, True), said
    assert not stranger.marker.exists()
    assert victim.everything_else() == before
    assert victim.head() == honest
    assert content(victim.at.state) == state
    assert git(victim.root, "status", "--porcelain") == ""


@pytest.mark.parametrize("case", list(CASES)[::4])  # some of each kind: the rules are the same
def test_a_pull_and_a_clone_refuse(stranger: Stranger, case: str) -> None:
    honest = git(stranger.root, "rev-parse", "HEAD")
    CASES[case](stranger)
    stranger.commit()
    victim = Victim(stranger, honest)
    store = victim.shares()
    before, state = victim.everything_else(), content(victim.at.state)
    made = stranger.folder / "clone"
    for args in (("pull",), ("clone", str(stranger.root), str(made), "--data", store)):
        code, said = victim.run(*args)
        assert (code, refused(said)) == (1, True), (args, said)
        assert not stranger.marker.exists()
        found = victim.everything_else()
        assert {p: d for p, d in found.items() if not p.startswith("clone/")} == before
        assert victim.head() == honest
        assert content(victim.at.state) == state
        assert git(victim.root, "status", "--porcelain") == ""
    assert not (made / "current_model").exists()  # objects may have arrived, and stay


@pytest.mark.parametrize("case", ["tracked: a journal", "link: mvc's folder"])
def test_what_plain_git_brought_is_refused_by_every_writer(stranger: Stranger, case: str) -> None:
    """`git clone` and `git checkout` ask nobody; mvc meets its own folder made by a stranger."""
    honest = git(stranger.root, "rev-parse", "HEAD")
    CASES[case](stranger)
    hostile = stranger.commit()
    victim = Victim(stranger, honest)
    git(victim.root, "clean", "-q", "-f", "-d", "-x", ".mvc")
    git(victim.root, "checkout", "-q", "-f", hostile)
    before = victim.everything_else()
    for args in (("checkout", honest), ("rollback", "@1"), ("snapshot",)):
        code, said = victim.run(*args)
        assert (code, refused(said)) == (1, True), said
    assert victim.everything_else() == before
    assert (stranger.outside / "HEAD.lock").read_text() == "not yours"


@pytest.mark.parametrize("case", ["DVC: a command for a token", "DVC: the cache elsewhere"])
def test_the_user_may_allow_a_repo(
    stranger: Stranger, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine, for this repo; nothing in the repo can say so."""
    from mvc.store import user

    honest = git(stranger.root, "rev-parse", "HEAD")
    CASES[case](stranger)
    hostile = stranger.commit()
    victim = Victim(stranger, honest)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(stranger.folder / "config"))
    user.path().parent.mkdir(parents=True)
    user.path().write_text(f'[repo."{stranger.root}"]\ndvc_config = true\n')
    code, said = victim.run("checkout", hostile)
    assert code == 1
    assert f'[repo."{victim.root}"]' in said
    user.path().write_text(f'[repo."{victim.root}"]\ndvc_config = true\n')
    code, said = victim.run("checkout", hostile)
    assert code == 0, said
    assert not stranger.marker.exists()


def test_what_could_run_in_plain_tools_does_not_run_here(stranger: Stranger) -> None:
    """A pipeline, hooks, filters, submodules: a model repo may have them, mvc starts none."""
    stage = {"stages": {"x": {"cmd": stranger.command, "outs": ["marker"], "always_changed": True}}}
    stranger.write("dvc.yaml", json.dumps(stage))
    stranger.write("hooks/post-checkout", f"#!/bin/sh\n{stranger.command}\n")
    stranger.write(".gitattributes", "* filter=evil diff=evil merge=evil\n")
    stranger.write(".gitconfig", f"[core]\n\tfsmonitor = {stranger.command}\n\thooksPath = hooks\n")
    url = f"ext::{stranger.command}"
    stranger.write(".gitmodules", f'[submodule "x"]\n\tpath = x\n\turl = {url}\n')
    git(stranger.root, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},x")
    stranger.write(".lfsconfig", f"[lfs]\n\turl = file://{stranger.outside}\n")
    stranger.write("sitecustomize.py", f"import os; os.system({stranger.command!r})\n")
    honest = git(stranger.root, "rev-parse", "HEAD")
    hostile = stranger.commit()
    victim = Victim(stranger, honest)
    before = victim.everything_else()
    for args in (("checkout", hostile), ("status",), ("log",), ("show",), ("fsck",), ("snapshot",)):
        code, said = victim.run(*args)
        assert "bug of ours" not in said, said
        assert code == 0 or refused(said), said
    assert victim.head() == hostile
    assert not stranger.marker.exists()
    assert victim.everything_else() == before


def test_odd_names_of_refs(stranger: Stranger) -> None:
    """Names that git takes but that look like options, days, paths or commands."""
    odd = ("-x", "--upload-pack=x", "snapshot/$(touch marker)", "snapshot/2026-99-99", "@{0}x")
    odd += ("snapshot/2026-11-20/x", "snapshot/..\u2028x", "HEAD")
    git(stranger.root, "pack-refs", "--all")
    packed = stranger.root / ".git" / "packed-refs"
    head = git(stranger.root, "rev-parse", "HEAD")
    lines = [f"{head} refs/tags/{name}\n" for name in odd]
    lines.append(f"{head} refs/tags/snapshot/../../../outside/x\n")
    packed.write_text(packed.read_text() + "".join(sorted(lines)))
    before = content(stranger.outside)
    for name in (*odd, "snapshot/../../../outside/x"):
        victim = stranger.at
        for verb in (partial(checkout.checkout, rev=name), snapshot.snapshots, status.status):
            try:
                verb(victim)
            except MvcError as error:
                assert error.hint
    assert content(stranger.outside) == before
    assert not stranger.marker.exists()
    assert not (stranger.root / "marker").exists()


def test_a_message_cannot_steer_the_terminal(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mvc.cli import main

    text = "\x1b]0;owned\x07\x1b[2J\x9b31m forged \u202e\n\nKind: batch\nBatch: 9\x1b[1m\n"
    git(stranger.root, "commit", "-q", "--allow-empty", "-m", text)
    monkeypatch.chdir(stranger.root)
    for args in (["log"], ["show"], ["status"], ["verify"], ["checkout", "HEAD"]):
        main.run(args)
    told = capsys.readouterr()
    for sign in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e"):
        assert sign not in told.out + told.err
