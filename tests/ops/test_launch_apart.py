"""What the processes of a launch let others do, and what they leave behind."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from mvc.engine import meeting
from mvc.errors import ConfigError
from mvc.store import history
from tests.ops.launching import HERE, MVC, ended, make_model, rank_of, wait_for

WATCHING = """\
import os, pickle, sys, threading, time

def tell(frame):
    if frame.f_globals["__name__"].startswith("torch.distributed"):
        with open(os.environ["UNPICKLED"], "a") as file:
            file.write(f"{frame.f_code}\\n")

class Unpickler(pickle.Unpickler):
    def __init__(self, *args, **options):
        tell(sys._getframe(1))
        super().__init__(*args, **options)

def loads(*args, loads=pickle.loads, **options):
    tell(sys._getframe(1))
    return loads(*args, **options)

pickle.Unpickler, pickle.loads = Unpickler, loads

def chatter():
    while True:
        os.write(1, b"chatter")
        time.sleep(0.001)

if "RANK" in os.environ:
    threading.Thread(target=chatter, daemon=True).start()
"""
"""For every process of a command: tells what torch.distributed unpickles off the network, and has
a library that prints what is no line."""


@pytest.mark.slow
def test_the_processes_of_one_machine_keep_to_themselves(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is unpickled, nothing is on the network, nothing is garbled, nothing is left."""
    at, data = make_model(tmp_path, tiny_base)
    for name in ("site", "left"):
        (tmp_path / name).mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCHING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    seen, left = tmp_path / "unpickled", tmp_path / "left"
    running = HERE.start(
        *MVC, "train", "--nproc", 2, data, cwd=at.root, UNPICKLED=str(seen), TMPDIR=str(left)
    )
    wait_for(at.run / "checkpoints" / "checkpoint-3", running)
    listening = [
        each.laddr.ip
        for rank in range(2)
        for each in rank_of(running, rank).net_connections()
        if each.status == psutil.CONN_LISTEN
    ]
    code, said = ended(running)
    assert code == 0, said
    assert len(history.log(at.root, "HEAD")) == 2
    assert listening and set(listening) == {"127.0.0.1"}
    assert not seen.exists(), seen.read_text()
    assert not list(left.iterdir())


@pytest.mark.parametrize(
    ("endpoint", "parts"),
    [
        ("10.0.0.1:29501", ("10.0.0.1", 29501)),
        ("trainer", ("trainer", 29500)),
        ("[::1]:29501", ("::1", 29501)),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(endpoint: str, parts: tuple[str, int]) -> None:
    assert meeting.split(endpoint) == parts


@pytest.mark.parametrize("endpoint", ["", ":1", "host:port", "::1:29500", "http://host:1"])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="is no endpoint"):
        meeting.split(endpoint)


def test_the_interface_is_the_one_that_leads_there() -> None:
    loopback = meeting.interface("127.0.0.1")
    addresses = psutil.net_if_addrs()
    assert loopback and any(each.address == "127.0.0.1" for each in addresses[loopback])
    assert meeting.interface("no.such.host.invalid") is None
