"""Real servers on loopback for the tests of sharing: an sshd, and one that speaks S3.

Both are processes of their own on a free port, and end with the test (or with the test run, should
it be killed: they watch for that). `s3` needs moto's server, which the lock file brings; `sshd`
needs Debian's openssh-server, which is installed where it is missing and the tests run as root.
Where that cannot be, the tests that need it are skipped with this reason, and in CI they fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 60


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def tool(name: str, package: str) -> str:
    """The path of a Debian program, installed first where it is missing and that is allowed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if not shutil.which(name, path=path) and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(["apt-get", "-qq", *command], timeout=300, check=False)
    found = shutil.which(name, path=path)
    if not found:
        reason = f"no {name} here, and it could not be installed: apt-get install -y {package}"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[int]:
    """A server process that listens on `port`, until the block ends; its process id."""
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_die_with_parent
        )
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None, f"{command[0]} ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer: {log.read_text()}"
            time.sleep(0.05)
        yield server.pid
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


# --- ssh ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sshd:
    """A running sshd that lets one key in, as the user who runs the tests."""

    port: int
    user: str
    keyfile: Path
    known_hosts: Path
    log: Path
    pid: int

    def kill_sessions(self) -> None:
        """SIGKILL whoever serves a client now; the server itself goes on."""
        import psutil

        for session in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()

    def url(self, folder: Path) -> str:
        """The URL of a folder of this machine, for git and for DVC."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}{folder}"

    @property
    def options(self) -> dict[str, str]:
        """DVC's options for it."""
        return {"keyfile": str(self.keyfile)}

    @property
    def git_ssh_command(self) -> str:
        """GIT_SSH_COMMAND: git's ssh takes its home from passwd, not from HOME."""
        return (
            f"ssh -F /dev/null -i {self.keyfile} -o IdentitiesOnly=yes -o BatchMode=yes "
            f"-o UserKnownHostsFile={self.known_hosts}"
        )


def _keygen(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, capture_output=True
    )


@contextlib.contextmanager
def run_sshd(folder: Path) -> Iterator[Sshd]:
    """A real sshd on loopback with its own host key, one client key and known_hosts.

    Raises:
        AssertionError: there is no sshd and it cannot be installed, in CI.
    """
    program = tool("sshd", "openssh-server")
    folder.mkdir(parents=True)
    port, user = free_port(), pwd.getpwuid(os.getuid()).pw_name
    _keygen(folder / "host")
    _keygen(folder / "client")
    shutil.copy(folder / "client.pub", folder / "authorized_keys")
    config = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",  # the test's folder is below /tmp
        "PermitRootLogin": "yes",
        "MaxSessions": "50",
        "MaxStartups": "100",
        "AcceptEnv": "GIT_PROTOCOL",
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "config").write_text("".join(f"{k} {v}\n" for k, v in config.items()))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own demand of root
    key = (folder / "host.pub").read_text().split()
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
    log = folder / "log"
    with _running([program, "-D", "-e", "-f", str(folder / "config")], port, log) as pid:
        yield Sshd(port, user, folder / "client", known, log, pid)


@pytest.fixture
def sshd(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A running sshd that git and mvc of this test know and may enter."""
    with run_sshd(tmp_path / "sshd") as server:
        monkeypatch.setenv("GIT_SSH_COMMAND", server.git_ssh_command)
        known = home / ".ssh" / "known_hosts"
        known.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(server.known_hosts, known)
        yield server
        known.unlink()


# --- S3 -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class S3:
    """A running server that speaks S3, and a bucket on it."""

    port: int
    pid: int
    bucket: str

    access_key_id: str = "AKIATESTTESTTESTTEST"
    secret_access_key: str = "very-secret-access-key-of-the-test"

    @property
    def endpoint(self) -> str:
        """Its address, for DVC and for boto."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str = "model") -> str:
        """The DVC URL of a folder in the bucket."""
        return f"s3://{self.bucket}/{path}"

    @property
    def options(self) -> dict[str, str]:
        """DVC's options for it, its secret among them."""
        return {
            "endpointurl": self.endpoint,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
        }

    def client(self) -> object:
        """A boto3 client, to look into and to damage the bucket."""
        import boto3  # type: ignore[import-untyped]

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name="us-east-1",
        )


@contextlib.contextmanager
def run_s3(folder: Path) -> Iterator[S3]:
    """moto's server in a process of its own, with an empty bucket `models`."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, folder / "log") as pid:
        server = S3(port, pid, "models")
        request = urllib.request.Request(f"{server.endpoint}/{server.bucket}", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        yield server


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A running S3 server with a bucket; this machine has no credentials of its own."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with run_s3(tmp_path / "s3-server") as server:
        yield server
