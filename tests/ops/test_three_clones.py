"""Must-show 1: three clones over each kind of remote, with the real protocol on loopback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mvc.ops import checkout, pull, push, snapshot
from mvc.store.layout import Layout
from tests.ops.conftest import state_bytes, train_one
from tests.ops.lines import content, dvc, git
from tests.ops.places import Place, place, s3, sshd
from tests.processes import in_process

__all__ = ["place", "s3", "sshd"]


@pytest.mark.slow
def test_three_machines_equal_one(
    place: Place,
    trained: Layout,
    new_model: Callable[..., Layout],
    batches: list[Path],
    tmp_path: Path,
) -> None:
    """A, B and A again train; C has the bits of `trained`, whose three batches one machine did."""
    a = new_model(name="a")
    in_process(lambda: train_one(a, batches[0]))
    first = state_bytes(a)
    place.share(a)

    b = place.cloned(tmp_path / "b")
    assert state_bytes(b) == first
    in_process(lambda: train_one(b, batches[1]))
    pin = snapshot.snapshot(b)
    sent = push.push(b)
    assert (len(sent.commits), sent.snapshots) == (1, (pin.tag,))

    pulled = pull.pull(a)
    assert (pulled.objects.num_bytes, pulled.snapshots) == (sent.objects.num_bytes, (pin.tag,))
    assert state_bytes(a) == state_bytes(b)
    in_process(lambda: train_one(a, batches[2]))
    push.push(a)

    c = place.cloned(tmp_path / "c")
    assert state_bytes(c) == state_bytes(a) == state_bytes(trained)
    assert content(c.batch) == content(a.batch)
    assert place.whole() == 5
    checkout.checkout(c, "@1")  # an older state, on demand
    assert state_bytes(c) == first
    checkout.checkout(c, "main")
    assert "up to date" in dvc(c.root, "status")
    for secret in place.secrets:
        for at in (a, b, c):
            assert git(at.root, "log", "--all", "-p", f"-S{secret}") == ""
            assert secret not in (at.root / ".dvc" / "config").read_text()
