"""Which processes train: this one, several that torchrun starts for us, or a launcher's.

Owns starting torchrun, passing batches to its ranks, hearing of their progress, stopping them, and
turning what a rank raised into the same error here. The ranks run `mvc.engine.worker`; they know
no git and no DVC.

torchrun, not `accelerate launch --cpu`, which silently runs one process (DESIGN.md, section 3).
With its static rendezvous: c10d's (`--standalone` too) unpickles what anybody on the network has
put into its store, and numbers the machines as it likes, while rank 0 must be where the repo is
and the order of the ranks decides bits. On one machine the ranks meet in a file and talk over the
loopback, so that nothing of them is on the network.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from mvc.engine import meeting, ranks, team, train
from mvc.engine.session import Session
from mvc.engine.train import Job
from mvc.errors import EngineError, MvcError, UsageError
from mvc.settings import LaunchSettings
from mvc.types import Progress, ShouldStop, StepReport, TrainResult

PARENT, STOP = "MVC_PARENT", "MVC_STOP"
_POLL_S = 0.2
_PATIENCE_S = 30.0

Run = Callable[[Job, Progress, ShouldStop], TrainResult]
"""`train.run`, by whatever processes there are."""


def resolve(settings: LaunchSettings, nproc: int | None) -> LaunchSettings:
    """[launch] of mvc.toml, or `nproc` processes on this machine alone where that is given.

    Under somebody else's launcher the processes are those that it started.

    Raises:
        UsageError: `nproc` is given there.
    """
    found = ranks.launched()
    if found and nproc is not None:
        raise UsageError(
            f"--nproc under a launcher that has started {found[1]} processes", "leave --nproc out"
        )
    if found:
        return LaunchSettings(nproc=found[1], fsdp=settings.fsdp)
    return settings if nproc is None else LaunchSettings(nproc=nproc, fsdp=settings.fsdp)


@contextlib.contextmanager
def crew(session: Session) -> Iterator[Run]:
    """What trains batches, as the owner of the repo calls it.

    Under a launcher this process is its rank 0, and the others hear of every error raised in the
    block. Torchrun is started with the first batch that needs it.

    Args:
        session: the base, where it is this process that trains.
    """
    if ranks.launched():
        with team.lead(session) as leading:
            yield leading.run
        return
    started: list[_Torchrun] = []

    def run(job: Job, progress: Progress, should_stop: ShouldStop) -> TrainResult:
        if job.nproc == 1:
            return train.run(job, session, progress, should_stop)
        if not started:
            how = msgspec.structs.replace(
                job.settings.launch, nproc=job.nproc // job.nnodes, nnodes=job.nnodes
            )
            started.append(_Torchrun(how, 0, Path(job.root)))
        return started[0].run(job, progress, should_stop)

    try:
        yield run
    finally:
        for each in started:
            each.close()


def assist(
    how: LaunchSettings, node_rank: int, root: Path, progress: Progress, should_stop: ShouldStop
) -> None:
    """Be machine `node_rank` of a launch: train along until machine 0, the repo's owner, is done.

    Raises:
        MvcError: what any rank raised; `EngineError` when one of them died.
    """
    if not 0 < node_rank < how.nnodes:
        raise UsageError(
            f"there is no machine {node_rank}: launch.nnodes in mvc.toml is {how.nnodes}",
            "give the machines the numbers from 0 to launch.nnodes - 1",
        )
    progress.stage(f"Training along with {how.rdzv_endpoint}")
    helping = _Torchrun(how, node_rank, root)
    try:
        helping.listen(progress, should_stop)
    finally:
        helping.close()
    progress.note(f"trained along with {how.rdzv_endpoint}, where the commits are")


class _Torchrun:
    """Torchrun and its ranks on this machine, for the batches of one command."""

    def __init__(self, how: LaunchSettings, node_rank: int, root: Path) -> None:
        self.num_processes = how.nproc * how.nnodes
        self._busy = False
        self._folder = tempfile.TemporaryDirectory(prefix="mvc-")
        self._log, self._stop = (Path(self._folder.name) / name for name in ("log", "stop"))
        # At port 0 torchrun takes a free one, for its own use.
        host, port = meeting.split(how.rdzv_endpoint) if how.nnodes > 1 else ("127.0.0.1", 0)
        command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=static"]
        command += [f"--nnodes={how.nnodes}", f"--node-rank={node_rank}"]
        command += [f"--master-addr={host}", f"--master-port={port}"]
        command += [f"--log-dir={self._folder.name}"]  # else it leaves a folder in /tmp
        command += [f"--nproc-per-node={how.nproc}", "-m", "mvc.engine.worker", str(root)]
        usual = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // how.nproc, 1))}
        if found := meeting.interface(host):
            usual["GLOO_SOCKET_IFNAME"] = found
        own = self._own()
        if how.nnodes == 1:
            own[ranks.MEETING] = str(Path(self._folder.name) / "meeting")
        # A session of its own: Ctrl-C in the terminal must reach us alone, who ask the ranks to
        # stop after the step in progress; torchrun would kill them.
        with self._log.open("wb") as errors_to:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors_to,
                env=usual | os.environ | own,
                start_new_session=True,
            )

    def _own(self) -> dict[str, str]:
        return {
            PARENT: f"{os.getpid()} {psutil.Process().create_time()}",
            STOP: str(self._stop),
            # `python -m` looks for packages in the working directory first: a file accelerate.py
            # in a pulled model repo would run.
            "PYTHONSAFEPATH": "1",
        }

    def run(self, job: Job, progress: Progress, should_stop: ShouldStop) -> TrainResult:
        """Like `train.run`.

        Raises:
            MvcError: what the ranks raised; `EngineError` when one of them died.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # they died; `listen` says of what
            self._process.stdin.write(msgspec.json.encode(job) + b"\n")
            self._process.stdin.flush()
        result = self.listen(progress, should_stop)
        if result is None:
            raise self._died("they ended without a result")
        return result

    def listen(self, progress: Progress, should_stop: ShouldStop) -> TrainResult | None:
        """Pass on what rank 0 tells until its next result; None where the ranks end instead."""
        assert self._process.stdout is not None
        over, self._busy = threading.Event(), True
        threading.Thread(target=self._pass_on, args=(should_stop, over), daemon=True).start()
        failure: MvcError | None = None
        try:
            for line in self._process.stdout:
                event = _event(line)
                if event.get("event") == "result":
                    self._busy = False
                    return msgspec.convert(event["result"], TrainResult, dec_hook=_path)
                if event.get("event") == "error":
                    failure = failure or msgspec.convert(event["error"], team.Told).error()
                else:
                    _show(event, progress)
        finally:
            over.set()
            progress.stop()
        status, self._busy = self._process.wait(), False
        if failure:
            raise failure
        if status:
            raise self._died(f"torchrun ended with {status}")
        return None

    def close(self) -> None:
        """Let the ranks end; make them where they are in the middle of a batch."""
        assert self._process.stdin is not None
        if self._busy:
            self._process.terminate()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # rank 0 takes it as the end
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its ranks see that, and end
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._folder.cleanup()

    def _pass_on(self, should_stop: ShouldStop, over: threading.Event) -> None:
        """Tell the ranks of the user's wish to stop, between two of their lines too."""
        while not over.wait(_POLL_S):
            if should_stop():
                self._stop.touch()
                return

    def _died(self, how: str) -> EngineError:
        return EngineError(
            f"one of the {self.num_processes} processes died ({how}): {_last(self._log)}",
            train.GO_ON,
        )


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


def _last(log: Path) -> str:
    lines = [x for x in log.read_text(errors="replace").splitlines() if x.strip()]
    told = [x for x in lines if "Error" in x and "ChildFailedError" not in x] or lines
    return told[-1].strip() if told else "no message"
