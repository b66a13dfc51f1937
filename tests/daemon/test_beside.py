"""Others work beside the daemon: collecting, pinning, looking; neither waits for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from mvc.daemon import loop
from mvc.ops import checkout, gc, given_up, log, snapshot, train
from mvc.store.layout import Layout
from tests.daemon.conftest import QUICK, batches_of, done, fill
from tests.ops.conftest import edit, sound, state_bytes
from tests.processes import in_process


def test_gc_beside_fifty_batches(at: Layout, inbox: Path, new_model: Callable[..., Layout]) -> None:
    edit(at, "train.checkpoint_steps=0", "keep.last=3", "thin.last=10", "keep.undo=0")
    other = new_model("train.checkpoint_steps=0", *QUICK, name="other")
    paths = fill(inbox, 50)
    list(train.train(other, paths))

    def collect() -> list[float]:
        """gc after gc while the daemon lives; the seconds of each."""
        took = []
        while len(done(inbox)) < 50:
            begun = time.monotonic()
            gc.gc(at, apply=True)
            took.append(time.monotonic() - begun)
        return took

    daemon = threading.Thread(target=lambda: in_process(lambda: loop.run(at, inbox, once=True)))
    daemon.start()
    # Not before its fork: it would inherit the pipe of a git that is just being started here, and
    # whoever reads that to its end wait for the daemon's.
    while daemon.is_alive() and not at.daemon.exists():
        time.sleep(0.01)
    took = collect()
    daemon.join()
    gc.gc(at, apply=True)
    assert len(batches_of(at)) == 50
    assert len(took) >= 5 and max(took) < 30, "gc waited for the daemon"
    trained = [each.time for each in log.log(at) if each.batch]
    gaps = [later - before for before, later in pairwise(reversed(trained))]
    # A batch takes parts of a second; a gc that held the lock all through would show here.
    assert max(gaps).total_seconds() < 30, "the daemon waited for gc"
    assert sound(at)
    assert state_bytes(at) == state_bytes(other)
    states = [given_up.state_given_up(at, each.commit) or "whole" for each in log.log(at)]
    assert states[:3] == ["whole"] * 3
    assert set(states[3:10]) == {"thin"}
    assert "absent" in states[10:]
    snapshot.snapshot(at)
    checkout.checkout(at, "@49")
    assert (at.state / "optimizer.pt").exists()
