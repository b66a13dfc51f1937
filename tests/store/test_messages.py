"""Commit messages read back as they were written."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mvc.store import history, messages
from mvc.types import Commit, Data, Gate, Loss, Rate
from tests.conftest import Line, batch, rollback, start

DAY = "2026-11-{:02}T03:00:00+01:00"
START = datetime(2000, 1, 1, tzinfo=UTC)


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


def test_git_itself_reads_the_trailers(new_line: Line) -> None:
    hashes = new_line.add(start(DAY.format(1)), batch(1, DAY.format(2)))
    new_line.add(rollback(hashes[1], 1, DAY.format(5)), batch(4, DAY.format(6)))
    parsed = new_line.git("log", "-1", "--format=%(trailers:key=Batch,valueonly)")
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
@example(commit=Commit("", (), "batch", 0, START, "", data=Data("\xa0", "0" * 32, 0, 0)), body="")
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


def test_a_loss_that_is_no_number_reads_back() -> None:
    lost = replace(batch(1, DAY.format(1)), curve=(2.5, math.nan), loss=Loss(2.5, math.nan, 2.5))
    text = messages.format_message(lost)
    found = history._read("f" * 40, "", lost.time.isoformat(), "", text)
    assert found.loss is not None and math.isnan(found.loss.last)
    assert found.curve[0] == 2.5 and math.isnan(found.curve[1])


@pytest.mark.parametrize("gone", ["Data-MD5", "Loss-Mean", "Rate-Last", "Steps"])
def test_half_of_it_is_another_hand_s(gone: str) -> None:
    text = messages.format_message(batch(1, DAY.format(1)))
    half = "\n".join(line for line in text.split("\n") if not line.startswith(f"{gone}: "))
    assert half != text
    assert history._read("f" * 40, "", DAY.format(1), "", half).kind == "other"
