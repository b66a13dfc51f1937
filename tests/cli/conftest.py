"""Model repos with real git, without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import fakes


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return fakes.empty_repo(tmp_path / "model")


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.line_repo(tmp_path_factory.mktemp("line") / "model")
