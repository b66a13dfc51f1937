"""Code that comes with a base model: found, pinned by a digest, and run only where it is allowed.

A config's `auto_map` names classes in `*.py` files beside the weights; transformers imports them
when it is told to trust them. Whether it may is the user's to say (`mvc trust`), and comes here as
the digest of the code that was allowed. Refuses code that lies anywhere but in the base's own
folder: nobody could have looked at it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mvc.errors import BaseModelError

ALLOW = "`mvc trust --remote-code`"
_CONFIGS = ("config.json", "tokenizer_config.json")
_USED = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
_CLASS = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)


class Code(msgspec.Struct, frozen=True):
    """What a folder's configs would run; nothing where `classes` is empty.

    `classes` are as `auto_map` names them (`modeling_x.Model`), `files` the sha256 of every `*.py`
    by name, `digest` pins both and the base (empty where nothing would run).
    """

    folder: Path
    classes: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    digest: str = ""

    @property
    def names(self) -> str:
        """The files, for a message."""
        return ", ".join(name for name, _ in self.files) or "no file of its own"

    def outside(self) -> list[str]:
        """The classes that lie in no file of this folder."""
        own = {name.removesuffix(".py") for name, _ in self.files}
        return [c for c in self.classes if not _CLASS.fullmatch(c) or c.split(".")[0] not in own]


def find(folder: Path, base_digest: str = "") -> Code:
    """What transformers would run of `folder`, were it trusted; nothing is run or imported.

    The digest is the sha256 over the base's digest, each class and each "name sha256" of `*.py`.

    Raises:
        OSError: a file cannot be read.
    """
    classes = tuple(sorted({name for config in _CONFIGS for name in _named(folder / config)}))
    if not classes:
        return Code(folder)
    found = sorted((path.name, path.read_bytes()) for path in folder.glob("*.py"))
    files = tuple((name, hashlib.sha256(data).hexdigest()) for name, data in found)
    pinned = json.dumps([base_digest, classes, files])
    return Code(folder, classes, files, hashlib.sha256(pinned.encode()).hexdigest())


def permit(ref: str, code: Code, allowed: str, how: str = ALLOW) -> bool:
    """Whether transformers must be told to trust the code: false where there is none.

    Args:
        ref: the base, as its user names it.
        code: what it would run.
        allowed: the digest that this user allowed for this repo; empty for none.
        how: the command that allows it.

    Raises:
        BaseModelError: there is code, and it is not allowed, or not what was allowed.
    """
    if not code.classes:
        return False
    if outside := code.outside():
        raise BaseModelError(
            f"base model {ref} wants code that does not lie in its own folder: {outside[0]!r}",
            f"put the file beside config.json in {code.folder} and name it there, then {how}",
        )
    if code.digest != allowed:
        why = "comes with code, which would run on this machine"
        if allowed:
            why = "comes with other code than you allowed"
        raise BaseModelError(
            f"base model {ref} {why}: {code.names} in {code.folder}",
            f"read it; if you trust its author, allow it: {how}. A copy of the folder without"
            " `auto_map` in its configs trains on transformers' own class, where it has one",
        )
    return True


def check_copy(copy: Code, base: Code) -> None:
    """Hold the code in a state (a tokenizer's) against the base's: each file must be one of it.

    Raises:
        BaseModelError: a class or a file is not the base's.
    """
    known = {digest for _, digest in base.files}
    strange = [name for name in copy.classes if name not in base.classes]
    strange += [name for name, digest in copy.files if digest not in known]
    if strange:
        raise BaseModelError(
            f"the tokenizer in {copy.folder.name}/ comes with code that is not the base model's:"
            f" {strange[0]}",
            "bring that file of the base back if you changed it; else `mvc checkout` another"
            " revision, and tell whoever made this one",
        )


def _named(config: Path) -> Iterator[str]:
    """The classes that a config names; one that cannot be read names none, and is not trusted."""
    try:
        found = json.loads(config.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return
    if not isinstance(found, dict):
        return
    mapped = found.get("auto_map")
    if isinstance(mapped, list):  # as old tokenizers have it
        mapped = {"AutoTokenizer": mapped}
    if isinstance(mapped, dict):
        for key in _USED:
            yield from _strings(mapped.get(key))
    if mapped and "configuration_files" in found:
        # transformers then reads another config, by a name that may lead anywhere.
        yield from _strings(found["configuration_files"])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
    elif value is not None:
        yield json.dumps(value)  # nothing that transformers takes: no class, so refused
