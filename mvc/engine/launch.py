"""Training one batch in several processes on this machine, by torchrun.

Owns starting the ranks, hearing of their progress, stopping them, and turning what a rank raised
into the same error here. The ranks run `mvc.engine.worker`; they know no git and no DVC.

torchrun, not `accelerate launch --cpu`, which silently runs one process (DESIGN.md, section 3).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from mvc import errors
from mvc.engine.train import Job
from mvc.errors import EngineError, MvcError
from mvc.types import SILENT, Progress, ShouldStop, StepReport, TrainResult, never_stop

STOP_FILE = "stop"
PARENT = "MVC_PARENT_PID"


def run(
    job: Job, nproc: int, progress: Progress = SILENT, should_stop: ShouldStop = never_stop
) -> TrainResult:
    """Like `train.run`, in `nproc` processes on this machine.

    Raises:
        MvcError: what the ranks raised; `EngineError` when one of them died.
    """
    folder = Path(job.run)
    path, log, stop = folder / "job.json", folder / "ranks.log", folder / STOP_FILE
    path.write_bytes(msgspec.json.encode(job))
    stop.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    threads = max((os.cpu_count() or 1) // nproc, 1)
    command += [f"--nproc-per-node={nproc}", "-m", "mvc.engine.worker", str(path)]
    # A session of its own: Ctrl-C in the terminal must reach us alone, who ask the ranks to stop
    # after the step in progress; torchrun would kill them.
    with log.open("wb") as errors_to:
        ranks = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors_to,
            stdin=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": str(threads), **os.environ, PARENT: str(os.getpid())},
            start_new_session=True,
        )
    result: TrainResult | None = None
    failure: MvcError | None = None
    try:
        assert ranks.stdout is not None
        for line in ranks.stdout:
            if should_stop():
                stop.touch()
            event = _event(line)
            if event.get("event") == "result":
                result = msgspec.convert(event["result"], TrainResult, dec_hook=_path)
            elif event.get("event") == "error":
                failure = _error(event)
            else:
                _show(event, progress)
        status = ranks.wait()
    finally:
        progress.stop()
        if ranks.poll() is None:
            ranks.kill()
            ranks.wait()
    if failure:
        raise failure
    if status or result is None:
        raise EngineError(
            f"one of the {nproc} processes died (torchrun ended with {status}): {_last(log)}",
            f"read {log.name} in .mvc/run; the same `mvc train` resumes from the last checkpoint",
        )
    return result


def _path(kind: type, value: Any) -> Any:
    """How msgspec makes the one type that JSON does not have."""
    return kind(value)


def _event(line: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _show(event: dict[str, Any], progress: Progress) -> None:
    match event.get("event"):
        case "stage":
            progress.stage(event["text"])
        case "note":
            progress.note(event["text"])
        case "start":
            progress.start(event["name"], event["num_steps"], event["first_step"])
        case "step":
            progress.step(msgspec.convert(event["report"], StepReport))


def _error(event: dict[str, Any]) -> MvcError:
    kind = getattr(errors, event["kind"], EngineError)
    error: MvcError = kind(event["message"], event["hint"])
    return error


def _last(log: Path) -> str:
    lines = [x for x in log.read_text(errors="replace").splitlines() if "Error" in x]
    return lines[-1].strip() if lines else "no message"
