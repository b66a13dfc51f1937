"""`mvc init`: a new model repo with its untrained state as first commit, or nothing at all."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mvc.errors import BaseModelError, ConfigError, DiskFull, MvcError, RepoError, UsageError
from mvc.ops import init, status
from mvc.store import objects
from mvc.store.layout import Layout
from tests.ops.conftest import SETS, git, sound, state_bytes

TRACKED = {
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "current_model.dvc",
    "dvc.yaml",
    "loss.csv",
    "metrics.json",
    "mvc.toml",
}


def test_a_new_repo_holds_the_untrained_state(tiny_base: Path, tmp_path: Path) -> None:
    when = datetime(2026, 11, 20, 12, tzinfo=UTC)
    made = init.init(tmp_path / "deep" / "model", str(tiny_base), sets=SETS, now=when)
    at = Layout(made.root)
    commit = made.commit
    assert (commit.kind, commit.batch, commit.parents) == ("init", 0, ())
    assert (commit.lifetime_step, commit.time, commit.is_head) == (0, when, True)
    assert commit.branches == ("main",)
    assert made.num_trainable_parameters > 0
    assert made.digest == tomllib.loads(at.config.read_text())["base"]["digest"]
    assert set(git(at, "ls-files").splitlines()) == TRACKED
    assert git(at, "status", "--porcelain") == ""
    assert json.loads((at.state / "trainer_state.json").read_text())["global_step"] == 0
    assert not (at.state / "optimizer.pt").exists()
    assert status.status(at).state == "clean"
    assert sound(at)


def test_the_same_seed_is_the_same_state(new_model: Callable[..., Layout]) -> None:
    one, two = new_model(name="one"), new_model(name="two")
    other = new_model("train.seed=7", name="other")
    assert state_bytes(one) == state_bytes(two)
    assert state_bytes(one) != state_bytes(other)


def test_sets_fill_mvc_toml(new_model: Callable[..., Layout]) -> None:
    at = new_model("train.learning_rate=0.125", "train.schedule=constant")
    told = tomllib.loads(at.config.read_text())["train"]
    assert (told["learning_rate"], told["schedule"]) == (0.125, "constant")
    assert "#" in at.config.read_text(), "every line stays commented"


def test_a_relative_base_is_found_from_anywhere(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_base.parent)
    made = init.init(tmp_path / "model", tiny_base.name, sets=SETS)
    assert tomllib.loads((made.root / "mvc.toml").read_text())["base"]["model"] == str(tiny_base)


def test_an_empty_folder_is_used(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert init.init(tmp_path / "empty", str(tiny_base), sets=SETS).root == tmp_path / "empty"


def test_a_folder_that_holds_something_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(RepoError, match="is not empty"):
        init.init(folder, str(tiny_base), sets=SETS)
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]
    with pytest.raises(RepoError, match="is a file"):
        init.init(folder / "thesis.txt", str(tiny_base), sets=SETS)


def test_a_model_repo_is_refused(new_model: Callable[..., Layout], tiny_base: Path) -> None:
    at = new_model()
    head = git(at, "rev-parse", "HEAD")
    with pytest.raises(RepoError, match="is a model repo already"):
        init.init(at.root, str(tiny_base), sets=SETS)
    assert git(at, "rev-parse", "HEAD") == head


@pytest.mark.parametrize(
    ("base", "sets", "error"),
    [
        ("no-such-base", [], BaseModelError),
        ("BASE", ["lora.target_modules=['nonsense']"], ConfigError),
        ("BASE", ["train.lerning_rate=1"], ConfigError),
        ("BASE", ["train.learning_rate=-1"], ConfigError),
        ("BASE", ["train.learning_rate"], UsageError),
    ],
)
@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_init_leaves_nothing(
    base: str,
    sets: list[str],
    error: type[MvcError],
    existed: bool,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    if existed:
        folder.mkdir()
    with pytest.raises(error) as caught:
        init.init(folder, base.replace("BASE", str(tiny_base)), sets=sets)
    assert caught.value.hint
    assert folder.exists() == existed
    assert not existed or not list(folder.iterdir())


def test_an_error_half_way_leaves_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise DiskFull("no space left", "free some space")

    monkeypatch.setattr(objects, "store_folder", full)
    with pytest.raises(DiskFull):
        init.init(tmp_path / "model", str(tiny_base), sets=SETS)
    assert not (tmp_path / "model").exists()
