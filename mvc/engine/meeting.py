"""Where the processes of a launch meet: an endpoint, the network that leads there, its port."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from urllib.parse import urlsplit

import psutil

from mvc.errors import ConfigError

_PORT = 29500
"""torchrun's own, where an endpoint names none."""


def split(endpoint: str) -> tuple[str, int]:
    """Host and port of HOST, HOST:PORT or [IPV6]:PORT.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        found = urlsplit(f"//{endpoint}")
        host, port = found.hostname, found.port
    except ValueError:
        host = port = None
    if not host or found.path or found.username is not None:
        raise ConfigError(
            f'launch.rdzv_endpoint = "{endpoint}" in mvc.toml is no endpoint',
            'write HOST:PORT of the first machine, for example "10.0.0.1:29500"',
        )
    return host, _PORT if port is None else port


def address(host: str) -> str | None:
    """This machine's own address on the way to `host`.

    None where it cannot be told, as where this machine's own name resolves to the loopback: the
    other machines come from elsewhere.
    """
    with contextlib.suppress(OSError):
        family, kind, _, _, there = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as asking:
            asking.connect(there)  # of a datagram socket: chooses the way, sends nothing
            here: str = asking.getsockname()[0].partition("%")[0]
        if _is_loopback(host) or not _is_loopback(here):
            return here
    return None


def interface(host: str) -> str | None:
    """This machine's network interface that leads to `host`, for gloo, which without one asks what
    the machine's own name resolves to: often the loopback, where no other machine comes.

    None where `address` is.
    """
    here = address(host)
    if here is None:
        return None
    with contextlib.suppress(OSError):
        for name, addresses in psutil.net_if_addrs().items():
            if any(each.address.partition("%")[0] == here for each in addresses):
                return str(name)
    return None


def is_held_above(port: str) -> bool:
    """Whether a process that started this one, or one above it, listens at `port`."""
    with contextlib.suppress(psutil.Error):
        return any(
            each.status == psutil.CONN_LISTEN and str(each.laddr.port) == port
            for process in psutil.Process().parents()
            for each in process.net_connections(kind="tcp")
        )
    return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
