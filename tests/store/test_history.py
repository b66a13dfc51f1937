"""Every walk over a line."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from mvc.errors import RepoError, RevisionNotFound
from mvc.store import history
from mvc.types import Commit
from tests.conftest import Line, batch, rollback, start

DAY = "2026-11-{:02}T03:00:00+01:00"


@pytest.fixture
def line(new_line: Line) -> Line:
    """@0 to @3, a rollback to @1, then @4."""
    hashes = new_line.add(start(DAY.format(1)), *(batch(n, DAY.format(n + 1)) for n in (1, 2, 3)))
    new_line.add(rollback(hashes[1], 1, DAY.format(5)), batch(4, DAY.format(6)))
    return new_line


def told(commits: list[Commit]) -> list[tuple[str, int | None]]:
    return [(each.kind, each.batch) for each in commits]


def test_log(line: Line) -> None:
    commits = history.log(line.root)
    assert told(commits) == [
        ("batch", 4),
        ("rollback", None),
        ("batch", 3),
        ("batch", 2),
        ("batch", 1),
        ("init", None),
    ]
    made = batch(4, DAY.format(6))
    assert commits[0] == replace(
        made,
        commit=line.git("rev-parse", "HEAD"),
        parents=(commits[1].commit,),
        message="Batch 4: day-04.jsonl, loss 2.31 -> 2.10",
        curve=(2.312, 2.2, 2.1),
        branches=("main",),
        is_head=True,
    )
    assert commits[0].time.isoformat() == DAY.format(6)
    assert history.log(line.root, limit=2) == commits[:2]
    assert history.log(line.root, "HEAD~4") == commits[4:]
    assert history.commit(line.root, commits[3].commit) == commits[3]


def test_names_of_commits(line: Line) -> None:
    line.git("branch", "a,b/c", "HEAD~1")
    line.git("branch", "x", "HEAD~1")
    line.git("update-ref", "refs/remotes/origin/main", "HEAD~1")
    line.git("tag", "-a", "-m", "m", "snapshot/2026-11-05", "HEAD~1")
    line.git("tag", "snapshot/2026-11-04", "HEAD~1")
    line.git("tag", "snapshot/other", "HEAD~1")
    line.git("tag", "v1", "HEAD~1")
    line.git("config", "log.excludeDecoration", "refs/*")
    line.git("config", "log.showSignature", "true")
    line.git("config", "color.ui", "always")
    line.git("config", "i18n.logOutputEncoding", "latin1")
    line.add(batch(5, DAY.format(7), "é.jsonl"))
    assert history.log(line.root)[0].data == batch(5, DAY.format(7), "é.jsonl").data
    line.git("update-ref", "refs/heads/main", "HEAD~1")
    head, other, *_ = history.log(line.root)
    assert (head.branches, head.snapshots, head.is_head) == (("main",), (), True)
    assert set(other.branches) == {"a,b/c", "x"}
    assert set(other.snapshots) == {"2026-11-05", "2026-11-04"}
    assert not other.is_head
    (line.root / ".git" / "HEAD").write_text(other.commit + "\n")
    head, other, *_ = history.log(line.root, "main")
    assert (head.is_head, other.is_head) == (False, True)
    assert head.branches == ("main",)
    assert set(other.branches) == {"a,b/c", "x"}


@pytest.mark.parametrize(
    "message",
    [
        "mine",
        "",
        "Kind: batch",
        "mine\n\nKind: batch",
        "mine\n\nKind: batch\nSteps: many\nLifetime-Step: 1",
        "mine\n\nKind: feast\nSteps: 1\nLifetime-Step: 1",
        "mine\n\nKind: batch\nSteps: 1\nLifetime-Step: 1\nLoss-First: 1",
        "mine\n\nKind: batch\nSteps: 1\nLifetime-Step: 1\nData: x",
        "mine\n\nKind: rollback\nSteps: 1\nLifetime-Step: 1\nRollback-To: --all",
        "mine\n\nKind: batch\nSteps: " + "9" * 5000 + "\nLifetime-Step: 1",
        "mine\n\nSigned-off-by: me",
    ],
)
def test_commits_of_another_hand(new_line: Line, message: str) -> None:
    new_line.add(replace(start(DAY.format(1)), kind="other", message=message))
    (found,) = history.log(new_line.root)
    assert (found.kind, found.message) == ("other", message)


@pytest.mark.parametrize("date", ["253402300800 +0000", "1 +9959", "99999999999999999 +0000"])
def test_a_date_of_no_calendar(line: Line, date: str) -> None:
    stream = f"commit refs/heads/main\ncommitter a <a> {date}\ndata 1\nx\nfrom refs/heads/main^0\n"
    subprocess.run(
        ["git", "fast-import", "--quiet", "--date-format=raw-permissive"],
        cwd=line.root,
        input=stream.encode(),
        check=True,
    )
    assert history.log(line.root)[0].time == datetime.fromtimestamp(0, UTC)
    assert history.log(line.root)[1].batch == 4


def test_a_merge_is_followed_by_first_parent(line: Line) -> None:
    (side,) = line.add(
        batch(9, DAY.format(9)), branch="side", start=line.git("rev-parse", "HEAD~2")
    )
    merge = line.git("commit-tree", "-p", "HEAD", "-p", side, "-m", "merge", "HEAD^{tree}")
    line.git("update-ref", "HEAD", merge)
    assert (None, 9) not in [(None, each.batch) for each in history.log(line.root)]
    assert 9 in [each.batch for each in history.log(line.root, first_parent=False)]
    assert history.log(line.root)[0].parents == (history.log(line.root)[1].commit, side)
    assert history.next_batch(line.root) == 5


def test_nothing_there(line: Line, tmp_path: Path) -> None:
    for rev in ("nope", "", "--all", "-n1", "1" * 40, "HEAD~99"):
        with pytest.raises(RevisionNotFound) as caught:
            history.log(line.root, rev)
        assert "mvc" in caught.value.hint
    with pytest.raises(RevisionNotFound, match="no commit yet"):
        history.log(Line(tmp_path / "empty").root)
    (tmp_path / "plain").mkdir()
    with pytest.raises(RepoError, match="not a git repository"):
        history.log(tmp_path / "plain")


def test_the_effective_line_skips_what_was_rolled_back(line: Line) -> None:
    assert told(list(history.effective_line(line.root))) == [
        ("batch", 4),
        ("rollback", None),
        ("batch", 1),
        ("init", None),
    ]
    found = history.find_batch(line.root, f"{1:032}")
    assert found is not None
    assert found.batch == 1
    assert history.find_batch(line.root, f"{2:032}") is None
    assert history.find_batch(line.root, f"{2:032}", "HEAD~2") is not None
    assert history.next_batch(line.root) == 5
    assert history.next_batch(line.root, "HEAD~1") == 4  # 2 and 3 are taken
    assert history.next_batch(line.root, "HEAD~5") == 1


def test_the_effective_line_changes_branches(line: Line) -> None:
    at = line.git("rev-parse", "HEAD~4")
    (other,) = line.add(batch(2, DAY.format(7), "side.jsonl"), branch="side", start=at)
    line.add(
        rollback(other, 2, DAY.format(8)), rollback(line.git("rev-parse", "HEAD"), 4, DAY.format(9))
    )
    assert told(list(history.effective_line(line.root, "HEAD~1"))) == [
        ("rollback", None),
        ("batch", 2),
        ("batch", 1),
        ("init", None),
    ]
    # A rollback from a rollback: what was left out is back.
    assert told(list(history.effective_line(line.root)))[:2] == [("rollback", None), ("batch", 4)]
    line.add(rollback("1" * 40, 9, DAY.format(10)))
    with pytest.raises(RevisionNotFound, match="1111"):
        list(history.effective_line(line.root))


def test_the_newest_of_two_batches_with_one_file(new_line: Line) -> None:
    hashes = new_line.add(
        start(DAY.format(1)),
        batch(1, DAY.format(2)),
        replace(batch(1, DAY.format(3)), batch=2),
    )
    found = history.find_batch(new_line.root, f"{1:032}")
    assert found is not None
    assert found.commit == hashes[2]


def test_file_at(line: Line) -> None:
    assert history.file_at(line.root, line.git("rev-parse", "HEAD~2"), "n.txt") == b"4"
    assert history.file_at(line.root, "HEAD", "n.txt") == b"2"
    assert history.file_at(line.root, "HEAD", "none.txt") is None
    (line.root / "new.txt").write_text("only on disk")
    assert history.file_at(line.root, "HEAD", "new.txt") is None
    with pytest.raises(RevisionNotFound):
        history.file_at(line.root, "1" * 40, "n.txt")


def test_snapshots(line: Line) -> None:
    assert history.snapshots(line.root) == []
    line.git("tag", "-a", "-m", "two\n\nwords", "snapshot/2026-11-03", "HEAD~3")
    line.git("tag", "-a", "-m", "same commit", "snapshot/2026-11-04", "HEAD~3")
    line.git("tag", "snapshot/2026-11-10", "HEAD")
    line.git("tag", "snapshot/other", "HEAD")
    found = history.snapshots(line.root)
    assert [each.day for each in found] == ["2026-11-10", "2026-11-04", "2026-11-03"]
    assert [each.commit.batch for each in found] == [4, 2, 2]
    assert found[0].time == found[0].commit.time
    assert found[2].tag == "snapshot/2026-11-03"
    assert found[2].message == "two\n\nwords"
    assert abs((found[2].time - datetime.now(UTC)).total_seconds()) < 60


def test_200_commits_parse_in_milliseconds(new_line: Line) -> None:
    many = replace(batch(1, DAY.format(1)), curve=tuple(2 + n / 64 for n in range(64)))
    new_line.add(*[many] * 200)
    bare = ["git", "log", "-z", "--format=%H%x00%P%x00%cI%x00%D%x00%B"]

    def best(call: object) -> float:
        took = []
        for _ in range(5):
            begun = time.perf_counter()
            call()  # type: ignore[operator]
            took.append(time.perf_counter() - begun)
        return min(took)

    git_s = best(lambda: subprocess.run(bare, cwd=new_line.root, capture_output=True, check=True))
    assert best(lambda: history.log(new_line.root)) < git_s + 0.05
