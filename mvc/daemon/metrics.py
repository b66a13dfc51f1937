"""The daemon's figures for Prometheus, on this machine's loopback only.

Owns their names. They are made of the status when they are asked for, in the server's own thread.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from mvc.daemon.status import Board
from mvc.errors import StoreError
from mvc.store.layout import Layout

if TYPE_CHECKING:
    from prometheus_client import Metric

_HOST = "127.0.0.1"


@contextmanager
def served(port: int, at: Layout, board: Board) -> Iterator[str]:
    """Serve the figures while the context lasts; yields where.

    Args:
        port: TCP port; 0 lets the system choose one.
        at: the model repo, for the room on its disk.
        board: what the daemon does.

    Raises:
        StoreError: the port is taken.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Figures(at, board))
    try:
        server, thread = start_http_server(port, _HOST, registry)
    except OSError as error:
        raise StoreError(
            f"port {port} of {_HOST} cannot be served on: {error.strerror or error}",
            "choose another one: `mvc watch INBOX --metrics PORT`",
        ) from error
    try:
        yield f"http://{_HOST}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Figures:
    def __init__(self, at: Layout, board: Board) -> None:
        self._at, self._board = at, board

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = self._board.status
        gauges: dict[str, tuple[float | None, str]] = {
            "loss": (now.loss, "Loss of the last logging step"),
            "learning_rate": (now.learning_rate, "Learning rate of the last logging step"),
            "tokens_per_second": (now.tokens_per_s, "Tokens trained in a second"),
            "lifetime_step": (now.lifetime_step, "Optimizer steps over the whole line"),
            "batch_step": (now.step, "Optimizer steps in this batch"),
            "batch_steps": (now.num_steps, "Optimizer steps that this batch will have"),
            "queue_files": (now.num_queued, "Files that wait"),
            "paused": (now.state == "paused", "1 while `mvc watch --pause` holds"),
            "waiting": (now.state.startswith("waiting"), "1 while somebody must mend something"),
            "last_step_timestamp_seconds": (_stamp(now.last_step_time), "Last logging step"),
            "last_commit_timestamp_seconds": (
                _stamp(now.last_commit.time if now.last_commit else None),
                "Last commit",
            ),
            "last_snapshot_timestamp_seconds": (
                _stamp(now.last_snapshot.time if now.last_snapshot else None),
                "Last snapshot",
            ),
            "disk_free_bytes": (_free(self._at), "Room on the repo's disk"),
        }
        for name, (value, words) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(f"mvc_{name}", words, float(value))
        yield CounterMetricFamily(
            "mvc_batches", "Batches committed since the start", now.num_batches
        )
        yield CounterMetricFamily("mvc_failures", "Files that went to failed/", now.num_failures)


def _stamp(time: datetime | None) -> float | None:
    return time.timestamp() if time else None


def _free(at: Layout) -> float | None:
    try:
        return shutil.disk_usage(at.root).free
    except OSError:
        return None
