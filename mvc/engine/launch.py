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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mvc.engine import meeting, ranks, team, train
from mvc.engine.session import Session
from mvc.engine.train import Job
from mvc.engine.watched import PARENT
from mvc.errors import EngineError, Interrupted, MvcError, UsageError
from mvc.settings import LaunchSettings
from mvc.types import Progress, ShouldStop, StepReport, TrainResult

STOP = "MVC_STOP"
_POLL_S = 0.2
_PATIENCE_S = 30.0

Run = Callable[[Job, Progress, ShouldStop], TrainResult]
"""`train.run`, by whatever processes there are."""


class Order(msgspec.Struct, frozen=True):
    """What rank 0 is told to do: train a batch, or end with an error of this side."""

    job: Job | None = None
    error: team.Told | None = None


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
def crew(
    session: Session, machines: LaunchSettings | None, should_stop: ShouldStop
) -> Iterator[Run]:
    """What trains batches, as the owner of the repo calls it.

    Under a launcher this process is its rank 0; the other ranks, and other machines, hear of every
    error raised in the block. On one machine torchrun is started with the first batch that needs
    it.

    Args:
        session: the base, where it is this process that trains.
        machines: what [launch] says of several machines, which are met at once.
        should_stop: asked while others are waited for.
    """
    if ranks.launched():
        with team.lead(session, should_stop) as leading:
            yield leading.run
        return
    started: list[_Torchrun] = []
    if machines and machines.nnodes > 1:
        started.append(_Torchrun(machines, 0, session.root, should_stop))

    def run(job: Job, progress: Progress, should_stop: ShouldStop) -> TrainResult:
        if job.nproc == 1:
            return train.run(job, session, progress, should_stop)
        if not started:
            how = replace(job.settings.launch, nproc=job.nproc // job.nnodes, nnodes=job.nnodes)
            started.append(_Torchrun(how, 0, Path(job.root), should_stop))
        return started[0].run(job, progress, should_stop)

    try:
        yield run
    except BaseException as error:
        for each in started:
            each.refuse(error)
        raise
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
    helping = _Torchrun(how, node_rank, root, should_stop)
    try:
        helping.listen(progress, should_stop)
    finally:
        helping.close()
    progress.note(f"trained along with {how.rdzv_endpoint}, where the commits are")


class _Torchrun:
    """Torchrun and its ranks on this machine, for the batches of one command."""

    def __init__(
        self, how: LaunchSettings, node_rank: int, root: Path, should_stop: ShouldStop
    ) -> None:
        self._how, self._should_stop = how, should_stop
        self._here = -1 if node_rank else 0
        self._busy = self._joined = self._stopped = False
        self._folder = tempfile.TemporaryDirectory(prefix="mvc-")
        self._log, self._stop = (Path(self._folder.name) / name for name in ("log", "stop"))
        # At port 0 torchrun takes a free one, for its own use.
        host, port = meeting.split(how.rdzv_endpoint) if how.nnodes > 1 else ("127.0.0.1", 0)
        command = [sys.executable, "-m", "mvc.engine.watched", "--rdzv-backend=static"]
        command += [f"--rdzv-conf=timeout={max(int(ranks.JOIN_S), 1)}"]
        command += [f"--nnodes={how.nnodes}", f"--node-rank={node_rank}"]
        command += [f"--master-addr={host}", f"--master-port={port}"]
        command += [f"--log-dir={self._folder.name}"]  # else it leaves a folder in /tmp
        command += [f"--nproc-per-node={how.nproc}", "-m", "mvc.engine.worker", str(root)]
        usual = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // how.nproc, 1))}
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
            PARENT: str(os.getpid()),
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
        self._order(Order(job))
        result = self.listen(progress, should_stop)
        if result is None:
            raise self._died("they ended without a result")
        return result

    def refuse(self, error: BaseException) -> None:
        """Have the other machines end with an error of this process, if they have none yet."""
        found = team.as_told(error)
        if found and self._how.nnodes > 1 and not self._busy:
            self._order(Order(error=team.Told.of(found)))

    def _order(self, order: Order) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # they died; `listen` says of what
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()

    def listen(self, progress: Progress, should_stop: ShouldStop) -> TrainResult | None:
        """Pass on what rank 0 tells until its next result; None where the ranks end instead."""
        assert self._process.stdout is not None
        over, self._busy = threading.Event(), True
        threading.Thread(target=self._pass_on, args=(should_stop, over), daemon=True).start()
        failure: MvcError | None = None
        try:
            for line in self._process.stdout:
                event = _event(line)
                self._joined = self._joined or event.get("event") == "joined"
                if event.get("event") == "result":
                    self._busy = False
                    return msgspec.convert(event["result"], TrainResult, dec_hook=_path)
                if event.get("event") == "error":
                    told = msgspec.convert(event["error"], team.Told)
                    failure = failure or told.error(self._here)
                else:
                    _show(event, progress)
        finally:
            over.set()
            progress.stop()
        status, self._busy = self._process.wait(), False
        if self._stopped:
            raise Interrupted(
                "stopped before all processes were there", "run the same `mvc train` again"
            )
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
        # Also for another machine that comes a little later than this one refused.
        until = time.monotonic() + _PATIENCE_S
        while self._process.poll() is None:
            if time.monotonic() > until or (self._should_stop() and not self._joined):
                self._process.kill()  # its ranks see that, and end
            time.sleep(_POLL_S / 10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._folder.cleanup()

    def _pass_on(self, should_stop: ShouldStop, over: threading.Event) -> None:
        """Tell the ranks of the user's wish to stop, between two of their lines too.

        Before they have met there is nothing to finish, and torch hears of no signal.
        """
        while not over.wait(_POLL_S):
            if not should_stop():
                continue
            if self._joined:
                self._stop.touch()
            else:
                self._stopped = True
                self._process.kill()
            return

    def _died(self, status: str) -> EngineError:
        how, why = self._how, _last(self._log)
        if how.nnodes > 1 and not self._joined:
            return EngineError(
                f"the {how.nnodes} machines did not meet at {how.rdzv_endpoint}: {why}",
                "run the same `mvc train` on each, with its own --node-rank; or look at "
                "launch.rdzv_endpoint in mvc.toml",
            )
        return EngineError(
            f"one of the {how.nproc * how.nnodes} processes died ({status}): {why}", train.GO_ON
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
