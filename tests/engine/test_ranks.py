"""Who this process is, and waiting for the others."""

from __future__ import annotations

import os
import threading
import time

import pytest
from torch.distributed import HashStore

from mvc.engine import ranks
from mvc.errors import EngineError, Interrupted
from mvc.types import never_stop


def test_asking_who_this_is_leaves_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan asks too; what it left would make the next program of this process a rank."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    step = {"STEP_ID": "0", "JOB_ID": "7", "PROCID": "1", "STEP_NUM_TASKS": "2"}
    for name, value in (step | {"STEP_NODELIST": "n[1-2]"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    before = dict(os.environ)
    assert ranks.launched() == (1, 2)
    assert dict(os.environ) == before


def test_the_first_waits_for_the_last_to_come() -> None:
    """Also in a group that was joined long ago: the heartbeat would end who waits alone."""
    store, passed = HashStore(), threading.Event()

    def first() -> None:
        ranks.gathered(store, 2, never_stop)
        passed.set()

    thread = threading.Thread(target=first)
    thread.start()
    time.sleep(3 * ranks._POLL_S)
    assert not passed.is_set()
    ranks.gathered(store, 2, never_stop)
    thread.join(30)
    assert passed.is_set()


def test_who_waits_can_be_stopped_and_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Interrupted):
        ranks.gathered(HashStore(), 2, lambda: True)
    monkeypatch.setattr(ranks, "JOIN_S", 0.1)
    with pytest.raises(EngineError, match="1 of 2 came"):
        ranks.gathered(HashStore(), 2, never_stop)
