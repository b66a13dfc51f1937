"""Objects between two clones over each protocol, whole, damaged on either side, or endless."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mvc.errors import DiskFull, ObjectCorrupt, ObjectMissing, StoreError
from mvc.sharing import Transfer, Wanted
from mvc.store import manifest, objects, transfer, wire
from mvc.types import Silent
from tests.servers import S3
from tests.store.conftest import content, dvc, git
from tests.store.sharing import (
    Bytes,
    all_of,
    cached,
    commit,
    flipped,
    in_bucket,
    local,
    of_kind,
    pair,
    place,
    s3,
    sent,
    sshd,
)

__all__ = ["local", "place", "s3", "sshd"]


# --- over every protocol ------------------------------------------------------------------------


def test_there_and_back(place: Bytes, tmp_path: Path) -> None:
    p = pair(place, tmp_path, 2, 9_000_000)  # several blocks, and several ranges on S3
    num_bytes = sum(len(data) for data in cached(p.a).values())
    done = transfer.push(p.a, "origin", sent(p.wanted))
    assert done == Transfer(len(p.wanted), num_bytes, 0)
    assert place.all() == cached(p.a)
    assert transfer.push(p.a, "origin", sent(p.wanted)) == Transfer(0, 0, len(p.wanted))

    listings = manifest.listings(p.b, p.commits)
    assert transfer.fetch(p.b, "origin", listings).num_objects == len(listings)
    files = manifest.files(p.b, p.commits)
    assert transfer.fetch(p.b, "origin", files).num_objects == len(files)
    assert cached(p.b) == cached(p.a)
    assert transfer.fetch(p.b, "origin", files) == Transfer(0, 0, len(files))
    assert all(
        (path.stat().st_mode & 0o777) == 0o444
        for path in objects.cache_folder(p.b).rglob("*")
        if path.is_file()
    )

    # Only what the remote lacks travels.
    new = all_of(p.a, [commit(p.a, 2)])
    done = transfer.push(p.a, "origin", sent(p.wanted + new))
    assert done.num_objects == len({i.md5 for i in new} - {i.md5 for i in p.wanted})
    assert transfer.missing_on(p.a, "origin", {i.md5 for i in new} | {"0" * 32}) == {"0" * 32}


def test_plain_dvc_on_either_side(place: Bytes, tmp_path: Path) -> None:
    p = pair(place, tmp_path)
    transfer.push(p.a, "origin", sent(p.wanted))
    dvc(p.b.root, "pull", "-q")
    assert content(p.b.state) == content(p.a.state)
    newer = commit(p.b, 5)
    dvc(p.b.root, "push", "-q")
    git(p.a.root, "fetch", "-q", str(p.b.root), "main")
    transfer.fetch(p.a, "origin", manifest.listings(p.a, [newer]))
    transfer.fetch(p.a, "origin", manifest.files(p.a, [newer]))
    assert {item.md5 for item in all_of(p.b, [newer])} <= set(cached(p.a))


def test_damage_on_the_remote_is_found_and_mended(place: Bytes, tmp_path: Path) -> None:
    p = pair(place, tmp_path)
    transfer.push(p.a, "origin", sent(p.wanted))
    assert transfer.check_remote(p.a, "origin", p.wanted) == []
    adapter, optimizer, batch, listing = of_kind(p.wanted)
    here = cached(p.a)
    place.write(adapter.md5, flipped(here[adapter.md5]))
    place.write(optimizer.md5, here[optimizer.md5][:100])
    place.write(batch.md5, None)
    place.write(listing.md5, flipped(here[listing.md5]))
    found = {item.md5: problem for item, problem in transfer.check_remote(p.a, "origin", p.wanted)}
    assert set(found) == {adapter.md5, optimizer.md5, batch.md5, listing.md5}
    assert "hashes to" in found[adapter.md5]
    assert found[optimizer.md5] == "is 100 bytes, should be 5000"
    assert found[batch.md5] == "is missing"
    for bad in (adapter, optimizer, listing):
        with pytest.raises(ObjectCorrupt) as caught:
            transfer.fetch(p.b, "origin", [bad])
        assert bad.path in caught.value.message
        assert bad.commit[:10] in caught.value.message
        assert "--repair" in caught.value.hint
    with pytest.raises(ObjectMissing, match=r"batch/data\.jsonl") as missing:
        transfer.fetch(p.b, "origin", [batch])
    assert batch.commit[:10] in missing.value.message
    assert cached(p.b) == {}
    # A push sends again what is missing or has another size; a repair the rest.
    assert transfer.push(p.a, "origin", sent(p.wanted)).num_objects == 2
    bad = [item for item, _ in transfer.check_remote(p.a, "origin", p.wanted)]
    assert transfer.replace(p.a, "origin", [item.md5 for item in bad]) == 2
    assert place.all() == here


# --- one protocol is enough ---------------------------------------------------------------------


def test_a_damaged_object_does_not_travel(local: Bytes, tmp_path: Path) -> None:
    p = pair(local, tmp_path)
    for item in of_kind(p.wanted):
        path = objects.object_path(objects.cache_folder(p.a), item.md5)
        whole = path.read_bytes()
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        path.unlink()
        path.write_bytes(flipped(whole))
        with pytest.raises(ObjectCorrupt, match=item.md5):
            transfer.push(p.a, "origin", sent(p.wanted))
        assert item.md5 not in local.all()
        path.unlink()
        with pytest.raises(ObjectMissing, match=item.md5):
            transfer.push(p.a, "origin", sent(p.wanted))
        path.write_bytes(whole)
    transfer.push(p.a, "origin", sent(p.wanted))
    assert local.all() == cached(p.a)
    # What another machine sent need not be here.
    path.unlink()
    assert transfer.push(p.a, "origin", sent(p.wanted)).num_objects == 0


def test_listings_go_last(local: Bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = pair(local, tmp_path)
    order: list[str] = []
    put = wire.Wire.put

    def note(self: wire.Wire, path: Path, md5: str, meter: wire.Meter) -> None:
        put(self, path, md5, meter)
        order.append(md5)

    monkeypatch.setattr(wire.Wire, "put", note)
    transfer.push(p.a, "origin", sent(list(reversed(p.wanted))))
    kinds = [md5.endswith(".dir") for md5 in order]
    assert kinds == sorted(kinds)
    assert len(order) == len(p.wanted)


def test_what_is_damaged_here_is_brought_anew(local: Bytes, tmp_path: Path) -> None:
    p = pair(local, tmp_path)
    transfer.push(p.a, "origin", sent(p.wanted))
    item = of_kind(p.wanted)[0]
    path = objects.object_path(objects.cache_folder(p.a), item.md5)
    whole = path.read_bytes()
    for damaged, check in ((whole[:10], False), (flipped(whole), True)):
        path.unlink()
        path.write_bytes(damaged)
        assert transfer.fetch(p.a, "origin", p.wanted, check=check).num_objects == 1
        assert path.read_bytes() == whole


def test_sha256_and_conflicting_manifests(local: Bytes, tmp_path: Path) -> None:
    p = pair(local, tmp_path)
    transfer.push(p.a, "origin", sent(p.wanted))
    item = of_kind(p.wanted)[0]
    lie = replace(item, sha256="f" * 64)
    for asked in ([lie], [item, lie]):
        with pytest.raises(ObjectCorrupt, match="SHA-256"):
            transfer.fetch(p.b, "origin", asked)
        assert cached(p.b) == {}
    with pytest.raises(ObjectCorrupt, match="should be 7"):
        transfer.fetch(p.b, "origin", [replace(item, size_bytes=7)])


@pytest.mark.parametrize("md5", ["../../../../tmp/x", "/etc/x", "0" * 31, "G" * 32, "", "-" * 32])
def test_what_is_no_md5_is_refused(local: Bytes, tmp_path: Path, md5: str) -> None:
    p = pair(local, tmp_path)
    with pytest.raises(StoreError, match="not an md5"):
        transfer.fetch(p.b, "origin", [Wanted(md5, None, None, "x", "0" * 40)])
    with pytest.raises(StoreError, match="not an md5"):
        transfer.push(p.a, "origin", [(md5, None)])


def test_a_second_try_takes_what_holds(
    local: Bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong answer of the network is not the remote's."""
    import contextlib
    import io

    p = pair(local, tmp_path)
    transfer.push(p.a, "origin", sent(p.wanted))
    asked: list[str] = []
    open_ = wire.Wire.open

    @contextlib.contextmanager
    def noisy(self: wire.Wire, md5: str) -> Iterator[Any]:
        asked.append(md5)
        with open_(self, md5) as source:
            if asked.count(md5) > 1 or not (data := source.read()):
                yield source
            else:
                yield io.BytesIO(flipped(data))

    monkeypatch.setattr(wire.Wire, "open", noisy)
    done = transfer.fetch(p.b, "origin", p.wanted)
    assert cached(p.b) == cached(p.a)
    assert done.num_bytes == sum(map(len, cached(p.a).values()))


def test_a_huge_size_is_refused_before_anything(local: Bytes, tmp_path: Path) -> None:
    p = pair(local, tmp_path)
    transfer.push(p.a, "origin", sent(p.wanted))
    item = of_kind(p.wanted)[0]
    with pytest.raises(DiskFull, match="nothing was fetched"):
        transfer.fetch(p.b, "origin", [replace(item, size_bytes=1 << 60)])


def test_an_endless_file_stops(
    local: Bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib

    class Endless:
        given = 0

        def read(self, size: int) -> bytes:
            Endless.given += size
            assert size <= transfer.BLOCK + 1
            return bytes(size)

    @contextlib.contextmanager
    def endless(self: wire.Wire, md5: str) -> Iterator[Any]:
        yield Endless()

    p = pair(local, tmp_path)
    monkeypatch.setattr(wire.Wire, "open", endless)
    monkeypatch.setattr(wire.Wire, "sizes", lambda self, md5s: dict.fromkeys(md5s))
    monkeypatch.setattr(transfer, "LISTING_LIMIT", 10_000)
    for item in of_kind(p.wanted):
        Endless.given = 0
        with pytest.raises(ObjectCorrupt, match="longer than"):
            transfer.fetch(p.b, "origin", [replace(item, sha256=None)])
        assert 0 < Endless.given <= 2 * 10_001
    assert cached(p.b) == {}


def test_progress_counts_bytes(local: Bytes, tmp_path: Path) -> None:
    class Heard(Silent):
        def __init__(self) -> None:
            self.told: list[tuple[str, int, int]] = []

        def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None:
            self.told.append((text, done_bytes, total_bytes))

    p = pair(local, tmp_path)
    total = sum(map(len, cached(p.a).values()))
    for act, verb in (
        (lambda heard: transfer.push(p.a, "origin", sent(p.wanted), heard), "Sending"),
        (lambda heard: transfer.fetch(p.b, "origin", p.wanted, heard), "Fetching"),
    ):
        heard = Heard()
        act(heard)
        assert all(text.startswith(verb) for text, _, _ in heard.told)
        assert heard.told[0][1] == 0
        assert heard.told[-1][1] == heard.told[-1][2]
        assert [done for _, done, _ in heard.told] == sorted(done for _, done, _ in heard.told)
        if verb == "Sending":
            assert heard.told[-1][2] == total


def test_the_first_failure_stops_the_others() -> None:
    meter = wire.Meter(Silent(), "x", 100)
    began = threading.Barrier(3, timeout=30)
    ended: list[str] = []

    def act(name: str) -> None:
        began.wait()
        if name == "bad":
            raise ValueError("broken")
        meter.stopped.wait(30)
        meter.adder(name)(1)
        ended.append(name)

    with pytest.raises(ValueError, match="broken"):
        wire.each(act, ["a", "bad", "b"], meter)
    assert ended == []


@pytest.mark.parametrize("listed_from", [wire._LISTED_FROM, 2])
def test_many_objects_of_a_bucket_are_listed_at_once(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed_from: int
) -> None:
    """With the same answer as asking for each, also about what is not there."""
    p = pair(in_bucket(s3), tmp_path, 2)
    transfer.push(p.a, "origin", sent(p.wanted))
    monkeypatch.setattr(wire, "_LISTED_FROM", listed_from)
    absent = ["0" * 32, "f" * 32 + ".dir"]
    with wire.opened(p.a, "origin") as opened:
        monkeypatch.setattr(opened._fs, "info" if listed_from == 2 else "find", None)
        found = opened.sizes([*(item.md5 for item in p.wanted), *absent])
    assert found == {md5: len(data) for md5, data in in_bucket(s3).all().items()}
