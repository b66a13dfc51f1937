"""One tiny base for all tests of the engine, and a cache folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import make_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama checkpoint folder; not to be changed."""
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mvc's and the hub's cache, empty, and no network."""
    monkeypatch.setenv("MVC_CACHE", str(tmp_path / "mvc-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "mvc-cache"
