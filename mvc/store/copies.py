"""Stored files copied out of the cache: plain files of the user's own, checked on the way.

Owns nothing but the copy: no link leads back, and what arrives is what its commit vouches for.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mvc.errors import ObjectCorrupt, ObjectMissing
from mvc.sharing import Wanted
from mvc.store.cache import hash_file
from mvc.store.files import no_space
from mvc.store.layout import Layout
from mvc.store.pointers import cache_folder, object_path


def write(layout: Layout, wanted: Sequence[Wanted], folder: Path) -> int:
    """Copy stored files into `folder`, by their path below their stored folder; returns bytes.

    Raises:
        ObjectMissing: an object is not in the cache.
        ObjectCorrupt: what was copied does not hold.
        DiskFull: no room for it.
    """
    cache, num_bytes = cache_folder(layout), 0
    with no_space("nothing was written"):
        for item in wanted:
            target = folder / PurePosixPath(item.path).relative_to(item.path.split("/")[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(object_path(cache, item.md5), target)
            except FileNotFoundError as error:
                raise ObjectMissing(
                    f"{item.path} of commit {item.commit[:10]} is not in the cache",
                    "`mvc fetch --all` brings what a remote has",
                ) from error
            found = hash_file(target, item.path)
            if found.md5 != item.md5 or item.sha256 not in (None, found.sha256):
                raise ObjectCorrupt(
                    f"{item.path} of commit {item.commit[:10]} is damaged in the cache",
                    "`mvc fsck --repair` mends it from a remote",
                )
            num_bytes += found.size_bytes
    return num_bytes
