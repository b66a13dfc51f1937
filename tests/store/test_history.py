"""Commit messages read back as they were written, and every walk over a line."""

from __future__ import annotations

import re
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mvc.errors import RepoError, RevisionNotFound
from mvc.store import history, messages
from mvc.types import Commit, Data, Gate, Loss, Rate
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


def test_the_message_for_people() -> None:
    lines = messages.format_message(batch(12, DAY.format(1)), "Of the night.\n\nAll new.").split(
        "\n"
    )
    assert lines[:6] == [
        "Batch 12: day-12.jsonl, loss 2.31 -> 2.10",
        "",
        "Of the night.",
        "",
        "All new.",
        "",
    ]
    assert lines[6:] == [
        "Kind: batch",
        "Batch: 12",
        "Data: day-12.jsonl",
        f"Data-MD5: {12:032}",
        "Rows: 100",
        "Tokens: 4000",
        "Steps: 10",
        "Lifetime-Step: 120",
        "Loss-First: 2.3125",
        "Loss-Last: 2.1",
        "Loss-Mean: 2.2",
        "Loss-Curve: 2.312 2.2 2.1",
        "Rate-First: 1e-05",
        "Rate-Last: 0.0002",
        "Seconds: 12.5",
        "Mvc-Version: 0.1.0",
        "",
    ]


def test_subjects() -> None:
    assert messages.start_subject("smollm2-135m", 16) == "Start: smollm2-135m, LoRA r=16"
    target = replace(batch(2, DAY.format(1)), commit="abc1234567" + "0" * 30)
    assert messages.rollback_subject(target) == "Roll back to @2 (abc1234567)"
    begun = replace(start(DAY.format(1)), commit="abc1234567" + "0" * 30)
    assert messages.rollback_subject(begun) == "Roll back to @0 (abc1234567)"
    assert messages.rollback_subject(replace(target, kind="other", batch=None)) == (
        "Roll back to abc1234567"
    )


def test_git_itself_reads_the_trailers(line: Line) -> None:
    parsed = line.git("log", "-1", "--format=%(trailers:key=Batch,valueonly)")
    assert parsed == "4"


NAMES = st.text(min_size=1)
FLOATS = st.floats(allow_nan=False)
NO_MD5 = st.just("0" * 32)
COUNTS = st.integers(0, 10**12)
WORDS = st.lists(
    st.sampled_from(
        ["Kind: init", "batch : 9", "Data-MD5: 0", "gate: x", "", "  x", "a\tb", "Note: fine", "\\"]
    )
    | st.text(),
    max_size=5,
).map("\n".join)
BATCHES = st.builds(
    Commit,
    commit=st.just(""),
    parents=st.just(()),
    kind=st.just("batch"),
    batch=COUNTS,
    time=st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)).map(
        lambda when: when.replace(microsecond=0)
    ),
    message=st.just(""),
    data=st.none() | st.builds(Data, NAMES, NO_MD5, COUNTS, COUNTS),
    steps=COUNTS,
    lifetime_step=COUNTS,
    loss=st.none() | st.builds(Loss, FLOATS, FLOATS, FLOATS),
    learning_rate=st.none() | st.builds(Rate, FLOATS, FLOATS),
    seconds=st.none() | FLOATS,
    curve=st.lists(st.integers(1, 9999).map(lambda n: n / 1000), max_size=32).map(tuple),
    rollback_to=st.none() | st.just("a" * 40),
    warnings=st.lists(NAMES, max_size=3).map(tuple),
    gate=st.none() | st.builds(Gate, st.sampled_from(["loss", "perplexity"]), FLOATS, NO_MD5),
)


@settings(max_examples=60)
@given(commit=BATCHES, body=WORDS)
def test_what_is_written_reads_back(commit: Commit, body: str) -> None:
    text = messages.format_message(commit, body)
    when = commit.time.isoformat()
    found = history._read("f" * 40, "", when, "", text)
    assert replace(found, commit="", message="") == commit
    # What was read is written in the same words again.
    assert messages.format_message(found) == text
    text.encode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", text)


@settings(max_examples=10)
@given(commits=st.lists(BATCHES, min_size=1, max_size=5), body=WORDS)
def test_git_keeps_it(
    tmp_path_factory: pytest.TempPathFactory, commits: list[Commit], body: str
) -> None:
    line = Line(tmp_path_factory.mktemp("kept") / "line")
    texts = [messages.format_message(each, body) for each in commits]
    line.add(
        *(
            replace(each, kind="other", message=text)
            for each, text in zip(commits, texts, strict=True)
        )
    )
    found = list(reversed(history.log(line.root)))
    assert [messages.format_message(each) for each in found] == texts
    assert [each.data for each in found] == [each.data for each in commits]
    assert [each.time for each in found] == [each.time for each in commits]


@pytest.mark.parametrize(
    "body",
    [
        "Kind: init",
        "x\n\nKind: init\nBatch: 99\nSteps: 1\nLifetime-Step: 1",
        "\n\nROLLBACK-TO: " + "a" * 40,
        "x\r\n\r\nKind: init\r\n",
        "x\x0b\x0bKind: init",
        "x\u2028\u2028Kind: init",
        "data-md5 : 0",
        "Gate: loss 0.1 0",
    ],
)
def test_words_cannot_forge_a_trailer(new_line: Line, body: str) -> None:
    made = batch(3, DAY.format(1), name="a\n\nKind: init\nBatch: 99")
    text = messages.format_message(made, body)
    new_line.add(replace(made, kind="other", message=text))
    (found,) = history.log(new_line.root)
    assert (found.kind, found.batch, found.rollback_to) == ("batch", 3, None)
    assert found.data == made.data
    keys = [each.split(":")[0].strip().lower() for each in text.split("\n") if each[:1] != " "]
    assert [keys.count(key) for key in ("kind", "rollback-to", "gate")] == [1, 0, 0]
    assert keys.count("data-md5") == 1


def test_words_stay_readable() -> None:
    made = batch(1, DAY.format(1))
    text = messages.format_message(made, "First.\n  - one\n\n\tC:\\data\nNote: see \x1b[31m\n")
    assert "\n\nFirst.\n  - one\n\n    C:\\data\nNote: see \\u001b[31m\n\nKind" in text


def test_the_curve_is_thinned() -> None:
    curve = tuple(float(n) for n in range(1000))
    text = messages.format_message(replace(batch(1, DAY.format(1)), curve=curve))
    (points,) = re.findall("Loss-Curve: (.*)", text)
    thin = [float(point) for point in points.split()]
    assert len(thin) == 32
    assert thin[0] == 15.0  # the mean of 0 to 30
    assert thin == sorted(thin)
    assert sum(thin) / 32 == pytest.approx(sum(curve) / 1000, rel=0.01)


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
