"""The exception tree. Every error that a user can cause or meet is one of these.

    MvcError                      message + hint; the process ends with `exit_code`
    ├── UsageError                flags that contradict each other (exit code 2)
    ├── ConfigError               mvc.toml: unknown key, wrong value, a change no line allows
    ├── RepoError                 not a model repo, dirty workspace, unfinished batch
    │   └── RevisionNotFound      a revision that names no commit
    ├── DataError                 a data file that cannot be a batch
    │   └── DataChanged           one that changed or went away while it was read
    ├── StoreError                what is on disk
    │   ├── ObjectMissing         a stored object is not there
    │   ├── ObjectCorrupt         a stored object does not match its hash
    │   ├── LockHeld              another writer works in this repo
    │   ├── DiskFull              no space left; nothing was changed
    │   ├── SignatureError        a commit or tag is unsigned, or signed by a stranger
    │   └── RemoteError           a git or DVC remote failed
    │       └── Diverged          both sides have commits that the other lacks
    ├── EngineError               training
    │   ├── BaseModelError        the base model cannot be found, read, or is another one
    │   ├── StateError            the stored state does not fit the model
    │   ├── ScheduleEnded         the learning-rate schedule has run out
    │   ├── TrainingFailed        the batch did not learn; it was thrown away
    │   │   └── Worsened          it made the held-out file of [gate] worse than the bound allows
    │   ├── OutOfMemory           the device's memory was not enough
    │   └── MissingExtra          an optional package is not installed
    └── Interrupted               Ctrl-C or SIGTERM; the checkpoint is kept (exit code 130)

Foreign exceptions are wrapped at the floor's edge with `raise ... from error`; the command line
shows that cause as `Caused by:`.
"""

from __future__ import annotations


class MvcError(Exception):
    """Root of the tree.

    Args:
        message: What is wrong, in one sentence, naming the file, line or revision.
        hint: What to do next; names a command wherever there is one.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(MvcError):
    """Flags or arguments that contradict each other."""

    exit_code = 2


class ConfigError(MvcError):
    """mvc.toml holds an unknown key, a wrong value, or a change that this line does not allow."""


class RepoError(MvcError):
    """Not a model repo, or a repo in a condition that forbids the operation."""


class RevisionNotFound(RepoError):
    """A revision that names no commit; the hint names the nearest one."""


class DataError(MvcError):
    """A data file that cannot be a batch; the message names file, line and what was expected."""


class DataChanged(DataError):
    """A data file that changed or went away while it was read: nothing is wrong with it."""


class StoreError(MvcError):
    """Something on disk (git, DVC, files, locks) refused."""


class ObjectMissing(StoreError):
    """A stored object is not in the cache."""


class ObjectCorrupt(StoreError):
    """A stored object does not match its hash."""


class LockHeld(StoreError):
    """Another process writes to this repo; the message names it."""


class DiskFull(StoreError):
    """No space left on the device; what was there before is whole."""


class RemoteError(StoreError):
    """A git or DVC remote failed."""


class Diverged(RemoteError):
    """Both sides have commits that the other lacks; the hint names the ways out."""


class SignatureError(StoreError):
    """A commit or tag is unsigned, or signed by somebody whom this machine does not trust."""


class EngineError(MvcError):
    """Training or loading a model failed."""


class BaseModelError(EngineError):
    """The base model cannot be found or read, or is not the one that mvc.toml names."""


class StateError(EngineError):
    """The stored state does not fit the model (names, shapes, missing files)."""


class ScheduleEnded(EngineError):
    """The learning-rate schedule has run out, or would inside this batch."""


class TrainingFailed(EngineError):
    """The batch did not learn (DESIGN.md, Fixed 2); its state was thrown away."""


class Worsened(TrainingFailed):
    """The batch worsened the metric of [gate] by more than its bound; it was thrown away."""


class OutOfMemory(EngineError):
    """The device's memory was not enough for this micro-batch."""


class MissingExtra(EngineError):
    """An optional package is not installed; the hint names the command that installs it."""


class Interrupted(MvcError):
    """The user stopped the batch; its checkpoint is kept and the hint says how to go on."""

    exit_code = 130
