"""What import and export say, and how imported commits stand in the history."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from mvc.render import log, transit
from mvc.sharing import ExportResult, ImportResult
from mvc.types import Resolved
from tests.render import samples as s

FIRST = replace(
    s.batch(1, 3.0, 2.6, kind="import", batch=None, data=None, seconds=None),
    parents=(),
    message="Import snapshot 2026-11-18",
    snapshots=("2026-11-18",),
    time=datetime(2026, 11, 18, 2, tzinfo=UTC),
)
SECOND = replace(
    s.batch(2, 2.6, 2.3, kind="import", batch=None, data=None, seconds=None),
    message="Import current_model",
    warnings=("it has no rng_state.pth: the random state was made from train.seed",),
    is_head=True,
)
IMPORTED = ImportResult(Path("my-model"), (FIRST, SECOND), "tiny", "d" * 64, 1234)
EXPORTED = ExportResult(
    commit=s.TWO,
    resolved=Resolved("2026-11-20", s.TWO.commit, None, "the snapshot of 2026-11-20"),
    folder=Path("friday"),
    num_files=10,
    num_bytes=968_000_000,
    merged=False,
)


def told(lines: object) -> str:
    return "\n".join(str(line) for line in lines)  # type: ignore[attr-defined]


def test_an_import_says_what_was_made(snapshot: SnapshotAssertion) -> None:
    assert told(transit.import_(IMPORTED)) == snapshot


def test_an_export_says_where_it_is(snapshot: SnapshotAssertion) -> None:
    assert told(transit.export(EXPORTED)) == snapshot
    merged = told(transit.export(replace(EXPORTED, merged=True)))
    assert merged.startswith("Wrote the merged model of @2")


def test_imported_commits_have_their_loss_in_the_history(snapshot: SnapshotAssertion) -> None:
    commits = [SECOND, FIRST]
    known = {each.commit: each for each in commits}
    lines = told(log.log(commits, now=s.NOW, width=None, lookup=known.get))
    assert "Import snapshot 2026-11-18" in lines
    assert "119 steps" in lines
    assert "jumped" not in lines
    assert lines == snapshot
