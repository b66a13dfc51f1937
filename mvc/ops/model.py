"""A model repo for scripts: the verbs as methods, what `mvc.open` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mvc.store.layout import Layout
from mvc.types import SILENT, Progress, ShouldStop, never_stop

if TYPE_CHECKING:
    from mvc.keeping import DuResult, GcResult, Pin
    from mvc.operations import Logged, UndoResult
    from mvc.sharing import (
        ExportResult,
        FetchResult,
        PullResult,
        PushResult,
        Remote,
        TrustResult,
        VerifyResult,
    )
    from mvc.types import (
        BatchPlan,
        BatchResult,
        CheckoutResult,
        Commit,
        CommitDetail,
        FsckResult,
        Snapshot,
        Status,
    )


class Model(msgspec.Struct, frozen=True):
    """A model repo. Methods are the verbs of the command line and raise the same errors."""

    layout: Layout
    progress: Progress = SILENT

    def train(
        self,
        files: Sequence[str | Path],
        *,
        again: bool = False,
        message: str | None = None,
        nproc: int | None = None,
        restart: bool = False,
        should_stop: ShouldStop = never_stop,
    ) -> Iterator[BatchResult]:
        """`mvc.ops.train.train`: one batch and one commit per file, as it is iterated."""
        from mvc.ops import train

        return train.train(
            self.layout,
            [Path(file) for file in files],
            again=again,
            message=message,
            nproc=nproc,
            restart=restart,
            progress=self.progress,
            should_stop=should_stop,
        )

    def plan(self, files: Sequence[str | Path], dump: str | Path | None = None) -> list[BatchPlan]:
        """`mvc.ops.train.dry_run`: what the files would be as batches; changes nothing."""
        from mvc.ops import train

        paths = [Path(file) for file in files]
        return train.dry_run(self.layout, paths, dump=Path(dump) if dump else None)

    def status(self) -> Status:
        """`mvc.ops.status.status`: where the repo stands."""
        from mvc.ops import status

        return status.status(self.layout)

    def log(self, rev: str = "HEAD", limit: int | None = None) -> list[Commit]:
        """`mvc.ops.log.log`: the commits of a line, newest first."""
        from mvc.ops import log

        return log.log(self.layout, rev, limit)

    def show(self, rev: str = "HEAD") -> CommitDetail:
        """`mvc.ops.show.show`: one commit whole."""
        from mvc.ops import show

        return show.show(self.layout, rev)

    def snapshot(self, message: str | None = None) -> Snapshot:
        """`mvc.ops.snapshot.snapshot`: pins today."""
        from mvc.ops import snapshot

        return snapshot.snapshot(self.layout, message)

    def snapshots(self) -> list[Snapshot]:
        """`mvc.ops.snapshot.snapshots`: all pins, newest day first."""
        from mvc.ops import snapshot

        return snapshot.snapshots(self.layout)

    def checkout(self, rev: str) -> CheckoutResult:
        """`mvc.ops.checkout.checkout`: puts a revision's state into current_model/."""
        from mvc.ops import checkout

        return checkout.checkout(self.layout, rev, progress=self.progress)

    def rollback(self, rev: str, message: str | None = None) -> CheckoutResult:
        """`mvc.ops.rollback.rollback`: a new commit with that revision's state."""
        from mvc.ops import rollback

        return rollback.rollback(self.layout, rev, message=message, progress=self.progress)

    def export(self, rev: str, directory: str | Path, *, merged: bool = False) -> ExportResult:
        """`mvc.ops.export.export`: a plain copy of a state, or its merged model."""
        from mvc.ops import export

        return export.export(
            self.layout, rev, Path(directory), merged=merged, progress=self.progress
        )

    def undo(self, name: str | None = None) -> UndoResult:
        """`mvc.ops.undo.undo`: takes back the last operation, or a named one."""
        from mvc.ops import undo

        return undo.undo(self.layout, name, progress=self.progress)

    def ops(self, limit: int | None = None) -> list[Logged]:
        """`mvc.ops.ops.ops`: what changed this repo, newest first."""
        from mvc.ops import ops

        return ops.ops(self.layout, limit)

    def remote(self) -> list[Remote]:
        """`mvc.ops.remote.remote`: where this repo is shared."""
        from mvc.ops import remote

        return remote.remote(self.layout)

    def push(self, remote: str | None = None, *, all_states: bool = False) -> PushResult:
        """`mvc.ops.push.push`: sends objects, then the branch and snapshots."""
        from mvc.ops import push

        return push.push(self.layout, remote, all_states=all_states, progress=self.progress)

    def fetch(self, remote: str | None = None, *, all_states: bool = False) -> FetchResult:
        """`mvc.ops.fetch.fetch`: brings what the remote has; nothing moves."""
        from mvc.ops import fetch

        return fetch.fetch(self.layout, remote, all_states=all_states, progress=self.progress)

    def pull(
        self,
        remote: str | None = None,
        *,
        adapter_only: bool = False,
        all_states: bool = False,
        keep_as: str | None = None,
    ) -> PullResult:
        """`mvc.ops.pull.pull`: brings what the remote has and moves the branch forward."""
        from mvc.ops import pull

        return pull.pull(
            self.layout,
            remote,
            adapter_only=adapter_only,
            all_states=all_states,
            keep_as=keep_as,
            progress=self.progress,
        )

    def verify(self, rev: str = "HEAD", limit: int | None = None) -> VerifyResult:
        """`mvc.ops.verify.verify`: the signatures of commits and snapshots."""
        from mvc.ops import verify

        return verify.verify(self.layout, rev, limit, progress=self.progress)

    def trust(self, *, remote_code: bool = False, launch: bool = False) -> TrustResult:
        """`mvc.ops.trust`: what this repo would run here; the flags let it."""
        from mvc.ops import trust

        ask = trust.allow if remote_code else trust.allow_launch if launch else trust.trust
        return ask(self.layout, progress=self.progress)

    def gc(self, *, apply: bool = False, remotes: Sequence[str] = ()) -> GcResult:
        """`mvc.ops.gc.gc`: what the policy would let go; with `apply`, lets it go."""
        from mvc.ops import gc

        return gc.gc(self.layout, apply=apply, remotes=remotes, progress=self.progress)

    def pin(self, rev: str, message: str | None = None) -> Pin:
        """`mvc.ops.pin.pin`: keeps a revision whole, whatever the policy says."""
        from mvc.ops import pin

        return pin.pin(self.layout, rev, message)

    def du(self, *, remotes: Sequence[str] = ()) -> DuResult:
        """`mvc.ops.du.du`: where the bytes are."""
        from mvc.ops import du

        return du.du(self.layout, remotes=remotes, progress=self.progress)

    def fsck(self) -> FsckResult:
        """`mvc.ops.fsck.fsck`: checks every stored object and every commit."""
        from mvc.ops import fsck

        return fsck.fsck(self.layout, self.progress)
