"""Frozen records of sharing and of what goes in and out: floor 0, as `types`, whose they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from mvc.types import Commit, Resolved


class Remote(msgspec.Struct, frozen=True):
    """Where a model repo is shared. URLs are as configured; show them through `remotes.masked`.

    `git_url` or `data_url` is None where only the other half is configured: a plain `git remote`
    or a plain `dvc remote`. `default` is DVC's default remote.
    """

    name: str
    git_url: str | None
    data_url: str | None
    default: bool


class Wanted(msgspec.Struct, frozen=True):
    """One object that a commit needs.

    `size_bytes` and `sha256` are what the commit vouches for (None where it says nothing), `path`
    is the file's name in the repo (`current_model/optimizer.pt`) and `commit` the first commit
    that names it, both for messages.
    """

    md5: str
    size_bytes: int | None
    sha256: str | None
    path: str
    commit: str


class Transfer(msgspec.Struct, frozen=True):
    """What a push or fetch of objects moved; `num_present` were there already."""

    num_objects: int
    num_bytes: int
    num_present: int


class PushResult(msgspec.Struct, frozen=True):
    """What a push sent.

    `commits` are those that the remote's branch or snapshots lacked, newest first, `snapshots`
    the tags that went along. `differing` are snapshots that both sides have with another
    content; each keeps its own. `behind` counts the commits of the remote's branch that are not
    here; then nothing was pushed to it.
    """

    remote: str
    branch: str
    head: Commit
    commits: tuple[Commit, ...]
    snapshots: tuple[str, ...]
    differing: tuple[str, ...]
    behind: int
    objects: Transfer


class FetchResult(msgspec.Struct, frozen=True):
    """What a fetch brought: the branch's commits that are not in ours yet, snapshots, objects.

    `branch` is None where HEAD is on none, or the remote has none of that name.
    """

    remote: str
    branch: str | None
    ahead: int
    commits: tuple[Commit, ...]
    snapshots: tuple[str, ...]
    differing: tuple[str, ...]
    objects: Transfer


class PullResult(msgspec.Struct, frozen=True):
    """Where a pull arrived.

    `commits` came to the branch, newest first. `kept_as` is the branch that keeps what was here
    before, where both sides had trained. `partial` is true while current_model/ holds only what
    inference needs.
    """

    remote: str
    branch: str
    head: Commit
    commits: tuple[Commit, ...]
    kept_as: str | None
    partial: bool
    snapshots: tuple[str, ...]
    differing: tuple[str, ...]
    num_files_changed: int
    objects: Transfer


class CloneResult(msgspec.Struct, frozen=True):
    """A new clone of a model repo; `partial` as in `PullResult`."""

    root: Path
    remote: str
    branch: str
    head: Commit
    num_commits: int
    snapshots: tuple[str, ...]
    partial: bool
    objects: Transfer


class TrustResult(msgspec.Struct, frozen=True):
    """What a repo would run on this machine, and whether this user allows it.

    `classes` are those that the base model's configs name, `files` their `*.py` in `folder`, and
    `digest` pins them; all are empty where no code is wanted.
    `allowed` tells of this very code, `changed` that other code was allowed. `dvc_config` tells
    whether every option of the tracked .dvc/config is obeyed, `config` is the user's own file.
    `launch` is where mvc.toml has several machines meet to train (HOST:PORT), `launch_allowed`
    where the user lets them; each is empty for nowhere.
    """

    base: str
    folder: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    digest: str
    allowed: bool
    changed: bool
    dvc_config: bool
    launch: str
    launch_allowed: str
    config: Path


Verdict = Literal["good", "unsigned", "stranger", "bad"]
"""Of a signature: by a trusted key; none; by a key not known or not trusted; broken or expired."""


class Signature(msgspec.Struct, frozen=True):
    """What git says of the signature of one commit or snapshot tag.

    `name` is the commit's hash or the tag's name, `commit` what it is or points to, `signer` and
    `key` whose it is as far as git knows, `detail` why it is not good, in words.
    """

    kind: Literal["commit", "tag"]
    name: str
    commit: str
    verdict: Verdict
    signer: str
    key: str
    detail: str
    subject: str


class VerifyResult(msgspec.Struct, frozen=True):
    """What `mvc verify` looked at; `required` tells whether this user refuses what is not good."""

    signatures: tuple[Signature, ...]
    required: bool

    @property
    def good(self) -> bool:
        """Whether every commit and tag has a good signature."""
        return all(each.verdict == "good" for each in self.signatures)


class ImportResult(msgspec.Struct, frozen=True):
    """A model repo made of what another program left: its commits, oldest first."""

    root: Path
    commits: tuple[Commit, ...]
    base: str
    digest: str
    num_trainable_parameters: int


class ExportResult(msgspec.Struct, frozen=True):
    """A folder with a revision's state, or its merged model; `num_bytes` of all files there."""

    commit: Commit
    resolved: Resolved
    folder: Path
    num_files: int
    num_bytes: int
    merged: bool
