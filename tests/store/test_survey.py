"""The look at everything at once: parts, quick pointers, and what refs and trees say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvc.errors import MvcError, StoreError
from mvc.store import objects, survey, trash
from mvc.store.layout import Layout
from tests.store.conftest import START, git, train


@pytest.mark.parametrize(
    ("folder", "path", "part"),
    [
        ("current_model", "adapter_model.safetensors", "adapter"),
        ("current_model", "adapter_model.bin", "adapter"),
        ("current_model", "optimizer.pt", "moments"),
        ("current_model", "rng_state_1.pth", "moments"),
        ("current_model", "trainer_state.json", "small"),
        ("current_model", "tokenizer/merges.txt", "small"),
        ("batch", "day.bin", "data"),
    ],
)
def test_parts(folder: str, path: str, part: str) -> None:
    assert survey.part(folder, path) == part


def test_every_commit_of_every_ref_is_seen_with_what_it_stores(line: Layout) -> None:
    git(line.root, "checkout", "-q", "--detach", "HEAD~1")
    train(line, 7)  # a branch of its own
    git(line.root, "checkout", "-q", "main")
    git(line.root, "tag", "-a", "-m", "x", "t1", "HEAD~2")
    git(line.root, "tag", "-a", "-m", "y", "t2", "t1")
    found = survey.survey(line)
    assert len(found.commits) == len(found.folders) == 4 and not found.doubtful
    first = git(line.root, "rev-parse", "HEAD~2").strip()
    assert found.refs["refs/tags/t2"] == found.refs["refs/tags/t1"] == first
    assert set(found.refs) == {
        "HEAD", "refs/heads/from-7", "refs/heads/main", "refs/tags/t1", "refs/tags/t2",
    }  # fmt: skip
    named = {m for fs in found.folders.values() for f in fs for m in f.objects("whole")}
    assert named == set(found.here)
    assert {found.state(commit, found.here) for commit in found.commits} == {"whole"}
    assert {f.name for f in found.folders[first]} == {"current_model"}


def test_a_thin_state_does_without_its_moments(line: Layout) -> None:
    found = survey.survey(line)
    head = found.refs["HEAD"]
    state = next(f for f in found.folders[head] if f.name == "current_model")
    moments = set(state.objects("whole")) - set(state.objects("thin"))
    assert len(moments) == 1 and list(state.objects("whole"))[-1].endswith(".dir")
    assert found.state(head, found.here.keys() - moments) == "thin"
    assert list(state.objects("absent")) == []


def test_a_pointer_of_another_form_is_read_as_yaml(line: Layout) -> None:
    text = (line.root / "current_model.dvc").read_text()
    md5 = text.split("md5: ")[1].split("\n")[0]
    odd = f"outs: [{{path: current_model, md5: {md5}, hash: md5}}]\n"
    (line.root / "current_model.dvc").write_text(odd)
    git(line.root, "commit", "-qam", "by another hand")
    found = survey.survey(line)
    assert [f.listing for f in found.folders[found.refs["HEAD"]] if f.name == "current_model"] == [
        md5
    ]
    (line.root / "current_model.dvc").write_text(odd.replace("path: current_model", "path: other"))
    git(line.root, "commit", "-qam", "a stranger's")
    assert [f.problem for f in survey.survey(line).findings] == [
        "current_model.dvc: its folder is 'other', not 'current_model'"
    ]


def test_a_trash_takes_and_gives_back(line: Layout) -> None:
    cache = objects.cache_folder(line)
    before = survey.objects_in(cache)
    some = sorted(before)[:4]
    made = trash.begin(line, START)
    assert trash.begin(line, START) == f"{made}-2"
    assert trash.take(line, made, [*some, "f" * 32]) == sum(before[md5] for md5 in some)
    assert survey.objects_in(cache).keys() == before.keys() - set(some)
    assert trash.objects(line, made) == {md5: before[md5] for md5 in some}
    assert trash.put_back(line, made) == (4, sum(before[md5] for md5 in some))
    assert survey.objects_in(cache) == before
    with pytest.raises(StoreError, match=f"no trash {made}"):
        trash.put_back(line, made)


def test_a_trash_that_was_being_emptied_is_emptied(line: Layout) -> None:
    made = trash.begin(line, START)
    trash.take(line, made, sorted(survey.objects_in(objects.cache_folder(line)))[:2])
    (line.trash / made / "manifest.json").unlink()  # what a kill leaves
    assert trash.listing(line) == []
    trash.empty(line)
    assert list(line.trash.iterdir()) == []


def test_a_trash_on_another_disk_is_copied(line: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if line.trash in Path(target).parents and not self.name.startswith(".mvc-"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    cache = objects.cache_folder(line)
    before = survey.objects_in(cache)
    made = _begun(line)
    trash.take(line, made, before)
    assert survey.objects_in(cache) == {} and trash.objects(line, made) == before
    assert not list(line.trash.rglob(".mvc-*"))
    trash.put_back(line, made)
    assert survey.objects_in(cache) == before


def _begun(line: Layout) -> str:
    folder = line.trash / "t"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"id": "t", "time": "2026-11-20T03:00:00+00:00"}')
    return "t"


def test_git_that_cannot_read_a_history_is_an_error(line: Layout) -> None:
    head = git(line.root, "rev-parse", "HEAD~1").strip()
    loose = line.root / ".git" / "objects" / head[:2] / head[2:]
    loose.chmod(0o644)
    loose.write_bytes(b"nothing")
    with pytest.raises(MvcError, match=f"{head[:10]}, in the history of HEAD") as caught:
        survey.survey(line)
    assert "git fsck" in caught.value.hint
