"""`mvc trust`: what a repo would run on this machine, and whether this user lets it.

The base model's own code is all that there is: nothing else of a repo is run (`store.foreign`
refuses what DVC would). Also with whom it may train: whoever joins a launch is sent the data. What
is allowed stands in the user's configuration, never in the repo.
"""

from __future__ import annotations

from mvc.engine import code
from mvc.errors import UsageError
from mvc.sharing import TrustResult
from mvc.store import config, user
from mvc.store.layout import Layout
from mvc.types import SILENT, Progress


def trust(at: Layout, *, progress: Progress = SILENT) -> TrustResult:
    """What the base of this repo would run here; nothing of it is run.

    Args:
        at: the model repo.
        progress: hears of the phase: a base that is not on this machine yet is fetched.

    Raises:
        BaseModelError: the base cannot be found, or is another one than mvc.toml pins.
        ConfigError: mvc.toml or the user's own configuration is wrong.
    """
    return _told(at, _code(at, progress))


def allow(at: Layout, *, progress: Progress = SILENT) -> TrustResult:
    """Let this repo run its base's code as it is now, on this machine.

    Raises:
        UsageError: the base comes with no code.
        BaseModelError: as `trust`, or the code does not lie in the base's own folder.
        ConfigError: as `trust`, or the user's own configuration cannot be written.
    """
    found = _code(at, progress)
    if not code.permit(config.load(at).base.model, found, found.digest):
        raise UsageError("the base model comes with no code", "there is nothing to allow")
    user.allow(at.root, "remote_code", found.digest)
    return _told(at, found)


def allow_launch(at: Layout, *, progress: Progress = SILENT) -> TrustResult:
    """Let this repo train with whoever joins at the endpoint that its mvc.toml has now.

    Raises:
        UsageError: [launch] asks for no other machine.
        BaseModelError: as `trust`.
        ConfigError: as `allow`.
    """
    endpoint = _endpoint(at)
    if not endpoint:
        raise UsageError(
            "[launch] in mvc.toml asks for no other machine",
            "there is nothing to allow",
        )
    found = _code(at, progress)
    user.allow(at.root, "launch", endpoint)
    return _told(at, found)


def revoke(at: Layout) -> bool:
    """Take back whatever this repo was allowed here; whether there was anything.

    Raises:
        ConfigError: the user's own configuration cannot be used or written.
    """
    return user.revoke(at.root)


def _code(at: Layout, progress: Progress) -> code.Code:
    from mvc.engine import base as bases

    named = config.load(at).base
    progress.stage("Reading the base model")
    try:
        found = bases.resolve(named.model, named.revision, at.root)
    finally:
        progress.stop()
    bases.check(found, named.digest)
    return found.code


def _endpoint(at: Layout) -> str:
    """Where mvc.toml has machines meet; empty where it asks for this one alone."""
    how = config.load(at).launch
    return how.rdzv_endpoint if how.nnodes > 1 else ""


def _told(at: Layout, found: code.Code) -> TrustResult:
    permitted = user.permissions(at.root)
    return TrustResult(
        base=config.load(at).base.model,
        folder=str(found.folder),
        classes=found.classes,
        files=tuple(name for name, _ in found.files),
        digest=found.digest,
        allowed=bool(found.digest) and found.digest == permitted.remote_code,
        changed=permitted.remote_code not in ("", found.digest),
        dvc_config=permitted.dvc_config,
        launch=_endpoint(at),
        launch_allowed=permitted.launch,
        config=user.path(),
    )
