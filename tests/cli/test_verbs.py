"""The verbs: what they pass on, what they print, their JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from mvc.cli import main as boundary
from mvc.errors import DataError
from mvc.types import BatchResult, InitResult
from tests.cli import fakes
from tests.cli.fakes import Fake
from tests.render import samples as s

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        status = boundary.run([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_log_tells_the_line(line: Path, run: Run) -> None:
    status, out, err = run("-C", line, "log")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert "@4" in lines[0]
    assert "HEAD, main" in lines[0]
    assert "! 3 of 1000 rows were cut to 1024 tokens" in lines[1]
    assert "rolled back to @2" in lines[2]
    assert "@3" in lines[3]
    assert [i for i, line in enumerate(lines) if "(rolled back)" in line] == [3]
    assert "! loss jumped: starts at 2.909, @2 ended at 2.112 (+0.796)" in lines[4]
    assert "snapshot 2026-11-20" in lines[5]
    assert "11:03" in lines[5]  # Berlin
    assert "the whole week" in lines[6]
    assert "\x1b" not in out


def test_log_with_a_limit_still_knows_what_came_before(line: Path, run: Run) -> None:
    out = run("-C", line, "log", "-n", 2)[1]
    assert "rolled back to @2" in out
    assert "@3" not in out
    assert "jumped" in run("-C", line, "log", "HEAD~2", "-n", "1")[1]


def test_log_as_json_has_the_promised_keys(line: Path, run: Run) -> None:
    status, out, err = run("-C", line, "log", "--json")
    told = json.loads(out)
    assert (status, err) == (0, "")
    assert [entry["kind"] for entry in told] == [
        "batch",
        "rollback",
        "batch",
        "batch",
        "batch",
        "init",
    ]
    keys = {
        *("commit", "parents", "kind", "batch", "time", "message", "data", "steps", "warnings"),
        *("lifetime_step", "loss", "learning_rate", "seconds", "branches", "snapshots"),
    }
    assert keys <= set(told[0])
    assert set(told[0]["data"]) == {"name", "md5", "rows", "tokens"}
    assert set(told[0]["loss"]) == {"first", "last", "mean"}
    assert set(told[0]["learning_rate"]) == {"first", "last"}
    assert told[3]["snapshots"] == ["2026-11-20"]
    assert "jumped" in told[2]["warnings"][0]
    assert told[1]["rollback_to"] == told[3]["commit"]
    assert [entry["rolled_back"] for entry in told] == [False, False, True, False, False, False]


def test_log_as_csv_has_each_batch_once(line: Path, run: Run) -> None:
    rows = run("-C", line, "log", "HEAD~1", "--csv")[1].splitlines()
    assert rows[0].startswith("commit,batch,step")
    assert len(rows) == 1 + 3 * 32  # the rollback's tree holds @3's loss.csv


def test_log_as_plot(line: Path, run: Run) -> None:
    out = run("-C", line, "log", "--plot")[1]
    assert "@2 snapshot 2026-11-20" in out
    assert "@3 (rolled back)" in out
    assert "rolled back to @2" in out
    assert "lifetime steps" in out
    assert "\x1b" not in out


def test_a_limit_that_hides_the_target_changes_nothing(line: Path, run: Run) -> None:
    whole = json.loads(run("-C", line, "log", "--json")[1])
    for num in range(1, 6):
        assert json.loads(run("-C", line, "log", "-n", num, "--json")[1]) == whole[:num]
    told = json.loads(run("-C", line, "log", "HEAD~2", "--json")[1])
    assert not any(entry["rolled_back"] for entry in told)  # what that state has learned


def test_a_rollback_to_another_branch_keeps_what_both_share(repo: Path, run: Run) -> None:
    fakes.commit(repo, s.INIT, {})
    fakes.commit(repo, s.ONE, {})
    fakes.git(repo, "switch", "-q", "-c", "other")
    there = fakes.commit(repo, s.TWO, {})
    fakes.git(repo, "switch", "-q", "main")
    fakes.commit(repo, s.THREE, {})
    fakes.commit(repo, replace(s.ROLLBACK, rollback_to=there), {})
    told = json.loads(run("-C", repo, "log", "--json")[1])
    assert [entry["batch"] for entry in told if entry["rolled_back"]] == [3]
    assert sum("(rolled back)" in row for row in run("-C", repo, "log")[1].splitlines()) == 1


def test_a_mistake_in_the_settings_does_not_hide_the_history(line: Path, run: Run) -> None:
    path = line / "mvc.toml"
    before = path.read_text()
    try:
        path.write_text("[base\n")
        assert run("-C", line, "log")[0] == 0
    finally:
        path.write_text(before)


class Trainer:
    """A fake `ops.train` that remembers how it was called."""

    def __init__(self, results: list[BatchResult], error: Exception | None = None) -> None:
        self.results, self.error, self.calls = results, error, []

    def __call__(self, layout: Any, files: Any, **flags: Any) -> Iterator[BatchResult]:
        self.calls.append((files, flags))
        flags["progress"].stage("Loading the base model")
        yield from self.results
        if self.error:
            raise self.error


def test_train_passes_its_flags_and_tells_each_batch(
    repo: Path, run: Run, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    fake = Trainer([s.ALREADY, s.RESULT])
    Fake(train=fake).install(monkeypatch)
    args = ("-m", "words", "--again", "--nproc", 2, "--restart")
    status, out, err = run("-C", repo, "train", "a.jsonl", "b.jsonl", *args)
    assert status == 0
    assert out == snapshot
    assert err == "Loading the base model\n"
    files, flags = fake.calls[0]
    assert files == (Path("a.jsonl"), Path("b.jsonl"))
    assert (flags["message"], flags["again"], flags["nproc"], flags["restart"]) == (
        "words",
        True,
        2,
        True,
    )


def test_train_as_json_tells_what_was_done_before_an_error(
    repo: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake(train=Trainer([s.RESULT], DataError("b.jsonl is empty", "fill it"))).install(monkeypatch)
    status, out, err = run("-C", repo, "train", "a.jsonl", "b.jsonl", "--json")
    assert status == 1
    assert "Error: b.jsonl is empty" in err
    (told,) = json.loads(out)
    assert told["commit"] == s.FOUR.commit
    assert told["already"] is False


def test_dry_run(repo: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import mvc.ops

    seen: dict[str, Any] = {}

    def dry_run(layout: Any, files: Any, **flags: Any) -> list[Any]:
        seen.update(flags)
        return [s.PLAN]

    monkeypatch.setattr(mvc.ops, "train", SimpleNamespace(dry_run=dry_run), raising=False)
    out = run("-C", repo, "train", "a.jsonl", "--dry-run", "--dump", "rows.jsonl", "--json")[1]
    assert json.loads(out)[0]["trainable_tokens"] == 240_001
    assert seen["dump"] == Path("rows.jsonl")
    assert "too long    3 rows" in run("-C", repo, "train", "a.jsonl", "--dry-run")[1]


@pytest.mark.parametrize("json_", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    "args",
    [
        "init new --base tiny --set lora.r=4",
        "status",
        "show @2",
        "snapshot -m words",
        "checkout 2026-11-20",
        "rollback 2026-11-20 -m words",
        "fsck",
    ],
)
def test_every_answer_is_text_or_one_document(
    args: str, json_: bool, repo: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def verb(result: Any) -> Callable[..., Any]:
        def function(*positional: Any, **named: Any) -> Any:
            calls.append((*positional, named))
            return result

        return function

    made = InitResult(Path("new"), s.INIT, "tiny", "d" * 64, 1234)
    Fake(
        init=verb(made),
        status=verb(s.BUSY),
        show=verb(s.DETAIL),
        snapshot=verb(s.PIN),
        checkout=verb(s.ARRIVAL),
        rollback=verb(s.ARRIVAL),
        fsck=verb(s.FSCK),
    ).install(monkeypatch)
    status, out, err = run("-C", repo, *args.split(), *(["--json"] if json_ else []))
    assert (status, err) == (0, "")
    assert len(calls) == 1
    if json_:
        assert isinstance(json.loads(out), dict)
    else:
        assert out.strip()


def test_fsck_that_finds_something_ends_with_1(
    repo: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake(fsck=lambda layout, **named: s.BROKEN).install(monkeypatch)
    status, out, _ = run("-C", repo, "fsck")
    assert status == 1
    assert "1 problem" in out
