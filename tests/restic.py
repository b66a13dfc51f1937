"""restic itself, for comparison: a repository with snapshots at any times, and what `forget` keeps.

A `restic backup --time` takes most of a second, most of it deriving the key, so the snapshot files
are written here, as restic's own format has them. Source: restic's doc/design.rst, "Snapshots" and
"Keys, Encryption and MAC" (AES-256 in counter mode, Poly1305-AES over the ciphertext).

Run as a script it writes tests/data/restic.json, from which the suite compares without restic.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

FIXTURE = Path(__file__).parent / "data" / "restic.json"
ZONE = "Europe/Berlin"
"""With two changes of the clock a year."""
POLICIES: tuple[dict[str, int | str], ...] = (
    {"last": 1},
    {"last": 10},
    {"last": 5000},
    {"hourly": 1},
    {"hourly": 24},
    {"hourly": 500},
    {"daily": 7},
    {"daily": 31},
    {"daily": 1000},
    {"weekly": 5},
    {"weekly": 60},
    {"monthly": 3},
    {"monthly": 18},
    {"yearly": 2},
    {"yearly": 10},
    {"within": "1h"},
    {"within": "36h"},
    {"within": "7d"},
    {"within": "1m"},
    {"within": "1y"},
    {"within": "1y2m3d4h"},
    {"within": "8m1d"},
    {"within": "9000y"},
    {"last": 3, "daily": 7},
    {"hourly": 24, "daily": 7, "weekly": 4},
    {"hourly": 24, "daily": 7, "weekly": 4, "monthly": 12, "yearly": 75},
    {"within": "0d", "daily": 3},
    {"within": "2d", "daily": 14, "weekly": 8},
    {"last": 144, "hourly": 48, "within": "3d"},
    {"daily": 1, "weekly": 1, "monthly": 1, "yearly": 1},
    {"last": 2, "hourly": 3, "daily": 4, "weekly": 5, "monthly": 6, "yearly": 7, "within": "12h"},
)


def moments(count: int = 2000, seed: int = 5) -> list[datetime]:
    """Different seconds of three years, oldest first: steady batches, gaps and bursts.

    Some lie about each change of the clock, each new year and the leap day.
    """
    chance, zone = random.Random(seed), ZoneInfo(ZONE)
    found: set[datetime] = set()
    for day in ((2024, 2, 29), (2024, 3, 31), (2024, 10, 27), (2024, 12, 31), (2025, 3, 30),
                (2025, 10, 26), (2025, 12, 29), (2025, 12, 31), (2023, 12, 31)):  # fmt: skip
        first = datetime(*day, tzinfo=UTC) - timedelta(hours=3)
        found |= {first + timedelta(minutes=17 * number) for number in range(90)}
    when = datetime(2023, 9, 1, 4, 5, 6, tzinfo=UTC)
    while len(found) < count:
        found.add(when)
        steps = (timedelta(minutes=10), timedelta(hours=3), timedelta(days=2), timedelta(days=9))
        when += chance.choices(steps, (80, 14, 5, 1))[0] + timedelta(seconds=chance.randrange(60))
    return [when.astimezone(zone) for when in sorted(found)]


class Restic:
    """A repository in `folder` with a snapshot at each of the moments."""

    def __init__(self, folder: Path, program: str, times: Sequence[datetime]) -> None:
        self._folder, self._program = folder, program
        self._env = os.environ | {
            "RESTIC_REPOSITORY": str(folder / "repo"),
            "RESTIC_PASSWORD": "secret",
            "RESTIC_CACHE_DIR": str(folder / "cache"),
            "TZ": ZONE,
        }
        self._run("init")
        key = json.loads(self._run("cat", "masterkey"))
        snapshots = folder / "repo" / "snapshots"
        for when in times:
            text = {"time": when.isoformat(), "tree": "0" * 64, "paths": ["/"], "hostname": "h"}
            sealed = _sealed(json.dumps(text).encode(), key)
            (snapshots / hashlib.sha256(sealed).hexdigest()).write_bytes(sealed)

    def kept(self, policy: dict[str, int | str]) -> list[datetime]:
        """The moments that `restic forget --dry-run` keeps, oldest first."""
        flags = [f"--keep-{name}={value}" for name, value in policy.items()]
        (group,) = json.loads(self._run("forget", "--dry-run", "--json", *flags))
        return sorted(
            datetime.fromisoformat(each["time"]).astimezone(UTC) for each in group["keep"]
        )

    def version(self) -> str:
        """What this restic calls itself."""
        return self._run("version").split(" compiled")[0]

    def _run(self, *args: str) -> str:
        done = subprocess.run(
            [self._program, *args], env=self._env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _sealed(plain: bytes, key: dict[str, object]) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    mac = key["mac"]
    assert isinstance(mac, dict)
    encrypt, k, r = (base64.b64decode(str(v)) for v in (key["encrypt"], mac["k"], mac["r"]))
    nonce = os.urandom(16)
    body = Cipher(algorithms.AES(encrypt), modes.CTR(nonce)).encryptor().update(plain)
    once = Cipher(algorithms.AES(k), modes.ECB()).encryptor().update(nonce)
    return nonce + body + Poly1305.generate_tag(r + once, body)


def main() -> None:
    """Write the fixture: for each policy, how many of the moments restic keeps, and which."""
    times = moments()
    index = {when.astimezone(UTC): number for number, when in enumerate(times)}
    with tempfile.TemporaryDirectory() as folder:
        restic = Restic(Path(folder), "restic", times)
        answers = [[index[when] for when in restic.kept(policy)] for policy in POLICIES]
        said = {"version": restic.version(), "kept": [_ranges(answer) for answer in answers]}
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text(json.dumps(said, separators=(",", ":")).replace("],[[", "],\n[[") + "\n")
    sys.stdout.write(f"{said['version']}: {[len(answer) for answer in answers]}\n")


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers in ascending order as [first, last] of each unbroken run."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


if __name__ == "__main__":
    main()
