"""`mvc verify`: the signatures of commits and snapshots; and holding others' commits to them."""

from __future__ import annotations

from mvc.ops.revision import resolve
from mvc.sharing import VerifyResult
from mvc.store import signatures, user
from mvc.store.layout import Layout
from mvc.types import SILENT, Progress


def verify(
    at: Layout, rev: str = "HEAD", limit: int | None = None, *, progress: Progress = SILENT
) -> VerifyResult:
    """Check the commits from `rev` back and the snapshots that pin one of them.

    Args:
        at: The model repo.
        rev: What `mvc log` takes.
        limit: How many commits at most; 1 is `rev` alone.
        progress: Hears of the phase: each signature starts a program.

    Raises:
        RevisionNotFound: `rev` names no commit.
        ConfigError: the user's own configuration is wrong.
    """
    required = user.load().trust.require_signed
    commit = resolve(at, rev).commit
    progress.stage("Checking signatures")
    commits = signatures.commits(at.root, [commit], limit)
    tags = signatures.snapshots(at.root, [each.commit for each in commits])
    progress.stop()
    return VerifyResult((*commits, *tags), required)


def require_trusted(at: Layout, commit: str) -> None:
    """Refuse `commit` where the user's configuration asks for signatures that it lacks.

    Every commit between HEAD and it is held to that, not only the newest.

    Raises:
        SignatureError: one of them is unsigned, signed by a stranger, or its signature is bad.
        ConfigError: the user's own configuration is wrong.
    """
    signatures.require(at, commit)
