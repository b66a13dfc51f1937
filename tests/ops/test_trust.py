"""Code that comes with a base: nothing of it runs until this user allows it, here, as it is.

The base is a real one whose config, model and tokenizer are classes of its own files; each file
leaves a mark when it is imported. Whatever could import them happens in a forked child.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mvc.cli import main
from mvc.engine import base as bases
from mvc.engine import code, files
from mvc.errors import BaseModelError, ConfigError, MvcError, UsageError
from mvc.ops import checkout, fsck, init, log, pull, push, show, status, stream, train, trust
from mvc.store import user
from mvc.store.layout import Layout
from tests.ops.conftest import SETS, edit, git, sound, train_one, write_batch
from tests.ops.lines import cloned, share
from tests.processes import in_process
from tests.tiny import make_base

SOURCES = {
    "configuration_x": "from transformers import LlamaConfig\n"
    "class XConfig(LlamaConfig):\n    model_type = 'x'\n",
    "modeling_x": "from transformers import LlamaForCausalLM\n"
    "from .configuration_x import XConfig\n"
    "class XModel(LlamaForCausalLM):\n    config_class = XConfig\n",
    "tokenization_x": "from transformers import PreTrainedTokenizerFast\n"
    "class XTokenizer(PreTrainedTokenizerFast): ...\n",
}


class Machine:
    """A base with code, and the users of one machine, whose configurations lie apart."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch, self.marker = folder, patch, folder / "marker"
        self.base = make_base(folder / "base")
        for name, text in SOURCES.items():
            mark = f"open({str(self.marker)!r}, 'a').write('{name} ')\n"
            (self.base / f"{name}.py").write_text(mark + text)
        classes = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": MODEL}
        self.change("config.json", model_type="x", auto_map=classes)
        tokenizer = {"AutoTokenizer": ["tokenization_x.XTokenizer"] * 2}
        self.change("tokenizer_config.json", tokenizer_class="XTokenizer", auto_map=tokenizer)
        self.be("ada")

    def change(self, name: str, **keys: object) -> None:
        found = json.loads((self.base / name).read_text())
        (self.base / name).write_text(json.dumps(found | keys))

    def be(self, name: str) -> None:
        self.patch.setenv("XDG_CONFIG_HOME", str(self.folder / name))

    def init(self, name: str = "model", *, allow: bool = True) -> Layout:
        path, sets = self.folder / name, [*SETS, "train.checkpoint_steps=1"]
        run = partial(init.init, path, str(self.base), sets=sets, trust_remote_code=allow)
        in_process(lambda: run().commit.commit)
        return Layout(path)

    def ran(self) -> list[str]:
        """The files that were imported since it was asked last."""
        found = self.marker.read_text().split() if self.marker.exists() else []
        self.marker.unlink(missing_ok=True)
        return found


MODEL = "modeling_x.XModel"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def trains(at: Layout, path: Path, **options: Any) -> str:
    """Train one file in a child, on purpose; the new commit."""
    return in_process(lambda: train_one(at, path, again=True, **options).commit.commit)


def streams(at: Layout, path: Path) -> None:
    """Train one file as the daemon does."""
    line = stream.Stream(at, "mvc watch")
    line.open()
    line.train(files.identify(path))
    line.close()


def refused(at: Layout, path: Path) -> MvcError:
    """The error of training, which leaves the repo as it was."""
    head = git(at, "rev-parse", "HEAD")
    with pytest.raises(BaseModelError) as caught:
        trains(at, path)
    assert git(at, "rev-parse", "HEAD") == head
    assert not at.run.exists()
    return caught.value


def test_init_asks_and_leaves_nothing(machine: Machine) -> None:
    with pytest.raises(BaseModelError) as caught:
        machine.init(allow=False)
    for name in ("configuration_x.py", "modeling_x.py", "tokenization_x.py", str(machine.base)):
        assert name in caught.value.message
    assert "--trust-remote-code" in caught.value.hint
    assert not machine.ran()
    assert not (machine.folder / "model").exists()
    assert not user.path().exists()


def test_a_class_that_transformers_has_does_not_stand_in(machine: Machine) -> None:
    """A line must not depend on who is allowed what: without the code there is no training."""
    machine.change("config.json", model_type="llama", auto_map={"AutoModelForCausalLM": MODEL})
    with pytest.raises(BaseModelError, match="modeling_x"):
        machine.init(allow=False)
    machine.init()
    assert "modeling_x" in machine.ran()


def test_what_is_allowed_runs_and_trains(machine: Machine, batches: list[Path]) -> None:
    at = machine.init()
    assert set(machine.ran()) == set(SOURCES)
    trains(at, batches[0])
    assert set(machine.ran()) == set(SOURCES)
    assert (at.state / "tokenization_x.py").exists()  # the state's tokenizer is the base's class
    assert sound(at)
    assert trust.trust(at).allowed
    assert str(machine.base / "modeling_x.py") not in at.config.read_text()


def test_a_failed_init_allows_nothing(machine: Machine) -> None:
    (machine.base / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BaseModelError):
        machine.init()
    assert user.load().repo == {}


def test_no_verb_runs_what_this_user_does_not_allow(machine: Machine, batches: list[Path]) -> None:
    a = machine.init()
    share(a, machine.folder)
    machine.ran()
    b = cloned(machine.folder, "b")  # of the same user: what a may do, b may not
    for at in (a, b):
        if at is a:
            machine.be("bob")  # another user in the same folder
        assert "mvc trust --remote-code" in refused(at, batches[0]).hint
        with pytest.raises(BaseModelError):
            in_process(lambda at=at: streams(at, batches[0]))
        with pytest.raises(BaseModelError):  # the state's tokenizer has code too
            in_process(lambda at=at: train.dry_run(at, batches[:1]))
        verbs: list[Callable[[Layout], object]] = [status.status, log.log, show.show, fsck.fsck]
        verbs += [trust.trust, push.push, pull.pull, lambda at: checkout.checkout(at, "HEAD")]
        for verb in verbs:
            in_process(lambda verb=verb, at=at: bool(verb(at)))
        git(at, "checkout", "-q", "main")
    assert not machine.ran()
    told = trust.trust(b)
    assert (told.allowed, told.changed, told.digest) == (False, False, trust.trust(a).digest)


def test_a_clone_is_allowed_on_its_own(machine: Machine, batches: list[Path]) -> None:
    a = machine.init()
    share(a, machine.folder)
    b = cloned(machine.folder, "b")
    machine.ran()
    machine.be("bob")
    in_process(lambda: trust.allow(b).digest)
    assert not machine.ran()  # to allow is not to run
    trains(b, batches[0])
    assert set(machine.ran()) == set(SOURCES)
    refused(a, batches[0])
    assert trust.revoke(b) and not trust.revoke(b)
    refused(b, batches[0])
    assert not machine.ran()


def test_changed_code_is_asked_for_again(machine: Machine, batches: list[Path]) -> None:
    at = machine.init()
    machine.ran()
    allowed = trust.trust(at)
    for name in (*SOURCES, "another"):
        path = machine.base / f"{name}.py"
        before = path.read_bytes() if path.exists() else None
        path.write_bytes((before or b"") + b"# new\n")
        assert trust.trust(at).changed, name
        path.unlink() if before is None else path.write_bytes(before)
    assert trust.trust(at) == allowed
    classes = {"AutoTokenizer": ["tokenization_x.XTokenizer", "modeling_x.XTokenizer"]}
    machine.change("tokenizer_config.json", auto_map=classes)
    assert trust.trust(at).changed
    assert "other code than you allowed" in refused(at, batches[0]).message
    assert not machine.ran()


def test_a_new_base_is_asked_for_again(machine: Machine, batches: list[Path]) -> None:
    """The same files over other weights, the new digest pulled with mvc.toml."""
    at = machine.init()
    make_base(machine.folder / "weights", seed=1)
    shutil.copy(machine.folder / "weights/model.safetensors", machine.base)
    edit(at, f"base.digest={bases.resolve(str(machine.base)).digest}")
    assert trust.trust(at).changed


def test_changed_code_that_is_allowed_runs_on_the_same_line(
    machine: Machine, batches: list[Path]
) -> None:
    at = machine.init()
    with (machine.base / "modeling_x.py").open("a") as file:
        file.write("# new\n")
    machine.ran()
    in_process(lambda: trust.allow(at).digest)
    head = git(at, "rev-parse", "HEAD")
    in_process(lambda: streams(at, batches[0]))
    assert git(at, "rev-parse", "HEAD^") == head
    assert "modeling_x" in machine.ran()


def test_ranks_under_torchrun_may_too(machine: Machine, batches: list[Path]) -> None:
    """A rank knows only what its job says; each of them imports the model's own class."""
    at = machine.init()
    edit(at, "train.micro_batch_size=1")
    machine.ran()
    trains(at, batches[0], nproc=2)
    assert machine.ran().count("modeling_x") == 2


def test_a_pulled_mvc_toml_cannot_switch_it_on(machine: Machine, batches: list[Path]) -> None:
    at = machine.init()
    share(at, machine.folder)
    b = cloned(machine.folder, "b")
    machine.ran()
    digest = trust.trust(at).digest
    text = at.config.read_text()
    at.config.write_text(text.replace("[base]", f'[base]\nremote_code = "{digest}"', 1))
    (at.root / "config.toml").write_text(f'[repo."{b.root}"]\nremote_code = "{digest}"\n')
    git(at, "add", ".")
    git(at, "commit", "-q", "-m", "trust me")
    git(at, "push", "-q", "origin", "main")
    in_process(lambda: bool(pull.pull(b)))
    with pytest.raises(ConfigError, match="remote_code"):
        trains(b, batches[0])
    assert not machine.ran()
    assert user.permissions(b.root).remote_code == ""


def test_a_state_may_not_bring_code_of_its_own(machine: Machine, batches: list[Path]) -> None:
    """What the base may run, a state with another file under the same name may not."""
    at = machine.init()
    theirs = at.state / "tokenization_x.py"
    text = theirs.read_text() + "# new\n"
    machine.ran()
    copy = machine.folder / "copy"
    shutil.copytree(at.state, copy)
    (copy / theirs.name).chmod(0o644)
    base = bases.resolve(str(machine.base)).code
    code.check_copy(code.find(copy), base)
    (copy / theirs.name).write_text(text)
    with pytest.raises(BaseModelError, match=r"tokenization_x\.py"):
        code.check_copy(code.find(copy), base)


OUTSIDE = ["/etc/evil.Model", "../evil.Model", "someone/model--modeling_x.XModel", "absent.Model"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_code_from_elsewhere_cannot_be_allowed(machine: Machine, name: str) -> None:
    machine.change("config.json", auto_map={"AutoModelForCausalLM": name})
    with pytest.raises(BaseModelError, match="own folder"):
        machine.init()
    assert not machine.ran()


def test_a_config_that_hands_over_to_another_cannot_be_allowed(machine: Machine) -> None:
    machine.change("config.json", configuration_files=["config.4.0.0.json"])
    with pytest.raises(BaseModelError, match="own folder"):
        machine.init()


def test_a_base_with_an_adapter_beside_its_weights(machine: Machine) -> None:
    """transformers would load it unasked, and PEFT import the module that it names."""
    adapter = {"peft_type": "LORA", "megatron_config": {"x": 1}, "megatron_core": "evil"}
    (machine.base / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(BaseModelError, match=r"adapter_config\.json"):
        machine.init()


def test_the_users_file_keeps_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "dotfiles").write_text(
        '# mine\n[trust]\nrequire_signed = true  # always\n\n[repo."~/a"]\ndvc_config = true\n'
    )
    user.path().parent.mkdir(parents=True)
    user.path().symlink_to(tmp_path / "dotfiles")
    user.allow(tmp_path / "a", "remote_code", "1" * 64)
    user.allow(tmp_path / "b", "remote_code", "2" * 64)
    assert user.permissions(tmp_path / "a") == user.Permissions(
        dvc_config=True, remote_code="1" * 64
    )
    assert user.permissions(tmp_path / "b").remote_code == "2" * 64
    assert user.revoke(tmp_path / "a")
    assert user.permissions(tmp_path / "a") == user.Permissions()
    assert user.load().trust.require_signed
    text = (tmp_path / "dotfiles").read_text()
    assert text.startswith("# mine\n[trust]\nrequire_signed = true  # always\n")
    (tmp_path / "dotfiles").write_text("not toml")
    with pytest.raises(ConfigError):
        user.allow(tmp_path / "a", "remote_code", "1" * 64)
    assert (tmp_path / "dotfiles").read_text() == "not toml"


def test_the_command(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = machine.init()
    monkeypatch.chdir(at.root)

    def said(*args: str) -> str:
        assert main.run(["trust", *args]) == 0
        return capsys.readouterr().out

    assert "allowed" in said() and "not allowed" not in said()
    assert said("--revoke") == "Taken back: this repo may run nothing here\n"
    assert said("--revoke") == "This repo was allowed nothing here\n"
    told = said()
    assert "not allowed" in told and "mvc trust --remote-code" in told
    assert "configuration_x.py, modeling_x.py, tokenization_x.py" in told
    assert str(user.path()) in said("--remote-code")
    document = json.loads(said("--json"))
    assert document["allowed"] is True
    assert document["classes"] == [
        "configuration_x.XConfig",
        "modeling_x.XModel",
        "tokenization_x.XTokenizer",
    ]
    assert main.run(["trust", "--revoke", "--remote-code"]) == 2
    assert main.run(["init", "../new", "--base", str(machine.base)]) == 1
    assert "--trust-remote-code" in capsys.readouterr().err


def test_a_base_without_code_has_nothing_to_allow(new_model: Callable[..., Layout]) -> None:
    at = new_model()
    told = trust.trust(at)
    assert (told.classes, told.digest, told.allowed) == ((), "", False)
    with pytest.raises(UsageError):
        trust.allow(at)


def test_a_place_to_meet_is_allowed_by_name(
    new_model: Callable[..., Layout],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pulled mvc.toml that names another one asks again."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    at = new_model()
    monkeypatch.chdir(at.root)
    assert main.run(["trust", "--launch"]) == 2  # nothing to allow
    edit(at, "launch.nnodes=2", "launch.rdzv_endpoint=10.0.0.1:29500")
    assert main.run(["trust"]) == 0
    assert "10.0.0.1:29500: not allowed" in capsys.readouterr().out
    assert trust.allow_launch(at).launch_allowed == "10.0.0.1:29500"
    edit(at, "launch.rdzv_endpoint=10.6.6.6:29500")
    told = trust.trust(at)
    assert (told.launch, told.launch_allowed) == ("10.6.6.6:29500", "10.0.0.1:29500")
    data = write_batch(tmp_path / "day.jsonl", 0)
    with pytest.raises(ConfigError, match=r"10\.6\.6\.6"):
        list(train.train(at, [data]))
    assert trust.revoke(at)
    assert trust.trust(at).launch_allowed == ""
