"""Training one batch in several processes on this machine, by torchrun.

Owns starting the ranks, hearing of their progress, stopping them, and turning what a rank raised
into the same error here. The ranks run `mvc.engine.worker`; they know no git and no DVC.

torchrun, not `accelerate launch --cpu`, which silently runs one process (DESIGN.md, section 3).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from mvc import errors
from mvc.engine.train import Job
from mvc.errors import EngineError, MvcError
from mvc.types import SILENT, Progress, ShouldStop, StepReport, TrainResult, never_stop

STOP_FILE = "stop"
PARENT = "MVC_PARENT"
_POLL_S = 0.2


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
            env={"OMP_NUM_THREADS": str(threads), **os.environ, **_own()},
            start_new_session=True,
        )
    result: TrainResult | None = None
    failure: MvcError | None = None
    try:
        assert ranks.stdout is not None
        threading.Thread(target=_pass_on, args=(ranks, should_stop, stop), daemon=True).start()
        for line in ranks.stdout:
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
        how = f"torchrun ended with {status}" if status else "they ended without a result"
        raise EngineError(
            f"one of the {nproc} processes died ({how}): {_last(log)}",
            "the same `mvc train` goes on from the last checkpoint; `mvc --debug train` shows more",
        )
    return result


def _pass_on(ranks: subprocess.Popen[bytes], should_stop: ShouldStop, stop: Path) -> None:
    """Tell the ranks of the user's wish to stop, between two of their lines too."""
    while ranks.poll() is None:
        if should_stop():
            stop.touch()
            return
        time.sleep(_POLL_S)


def _own() -> dict[str, str]:
    return {
        PARENT: f"{os.getpid()} {psutil.Process().create_time()}",
        # `python -m` looks for packages in the working directory first: a file accelerate.py in a
        # pulled model repo would run.
        "PYTHONSAFEPATH": "1",
    }


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
    lines = [x for x in log.read_text(errors="replace").splitlines() if x.strip()]
    told = [x for x in lines if "Error" in x and "ChildFailedError" not in x] or lines
    return told[-1].strip() if told else "no message"
