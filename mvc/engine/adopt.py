"""A foreign state, held against its model and written as a state of ours.

Owns giving the moments the names that optimizer.pt lacks: the model is built, its parameters are
put in the order in which the Trainer puts them, and every shape is compared. The originals are
only read.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvc.engine import base as bases
from mvc.engine import foreign_state, rng, schedule, state
from mvc.engine.foreign_state import Found
from mvc.engine.quiet import quiet
from mvc.engine.session import Session
from mvc.errors import ConfigError, StateError
from mvc.types import CurvePoint, FileDigest

if TYPE_CHECKING:
    from mvc.settings import Settings

_CHANGED = "import again when no program writes to the folder, or import a copy of it"
_OTHER_BASE = "nothing was made; name the base that it was trained on with `--base`"


class Adoption:
    """The model of a line to come, and the states that are to be its commits.

    Args:
        settings: the new mvc.toml's.
        root: where a relative base would be looked for.
        allowed: as in `Session`.
        like: one of the states; all must have its LoRA.

    Raises:
        StateError: its LoRA fits no module of the base.
        BaseModelError: the base cannot be read.
    """

    def __init__(self, settings: Settings, root: Path, allowed: str, like: Found) -> None:
        from peft import get_peft_model, get_peft_model_state_dict

        from mvc.engine.trainer import optimizer

        self.settings, self.like = settings, like
        self.session = Session(root, allowed)
        base = self.session.base(settings)
        lora = copy.deepcopy(like.lora)
        lora.inference_mode = False
        with quiet(), tempfile.TemporaryDirectory() as output, foreign_state.of(like.folder):
            try:
                model = get_peft_model(
                    bases.load_model(base, settings.train.precision, allowed=allowed), lora
                )
            except ValueError as error:
                raise StateError(f"its LoRA does not fit {base.ref}: {error}", "") from error
            self.optimizer = optimizer(model, settings.train, Path(output))
        self.parameters = state.optimizer_parameters(model, self.optimizer)
        self.config = state.adapter_config(model, settings.base.model)
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        self.expected = {name: list(tensor.shape) for name, tensor in weights.items()}
        self.num_parameters = sum(math.prod(shape) for _, shape in state.trainable(model))
        self._base_tokenizer: dict[str, bytes] = {}

    def check(self, found: Found) -> None:
        """Refuse a state that is none of this model's.

        Raises:
            StateError: another LoRA, other tensors, or moments of another shape.
            ConfigError: mvc.toml asks for another optimizer than its moments are of.
        """
        with foreign_state.of(found.folder):
            if found.form != self.like.form:
                raise StateError(f"its LoRA is not that of {self.like.folder.name}", "")
            stored = {name: shape for name, (shape, _) in found.header.items()}
            for name in sorted(self.expected.keys() | stored.keys()):
                if stored.get(name) != self.expected.get(name):
                    raise StateError(
                        f"the adapter is none of {self.settings.base.model}: {name} is "
                        f"{stored.get(name)}, the model has {self.expected.get(name)}",
                        _OTHER_BASE,
                    )
            if found.moments is not None:
                self._moments(found, mmap=True)
            if found.tokenizer:
                self.session.tokenizer(self.settings, found.folder)

    def write(
        self, found: Found, curve: Sequence[CurvePoint], num_steps: int, target: Path
    ) -> list[FileDigest]:
        """Write `found` into the empty folder `target`, as `mvc train` would have left it.

        Args:
            found: a state that was checked.
            curve: the losses of its commit.
            num_steps: the steps of its commit.
            target: where the files go; they are hashed and fsynced.

        Raises:
            StateError: the folder changed since it was looked at.
        """
        from safetensors.torch import load_file

        with foreign_state.of(found.folder):
            tensors = load_file(found.folder / state.ADAPTER)
            # Kept in bfloat16 they would lose bits at every batch's end.
            digests = [
                state.write_tensors(target, {n: tensors[n].float() for n in sorted(tensors)}),
                state.write_bytes(target, state.ADAPTER_CONFIG, self.config),
            ]
            if found.moments is not None:
                digests += self._write_moments(found, target)
            for name, data in self._tokenizer(found).items():
                digests.append(state.write_bytes(target, name, data))
            size = self.settings.train.micro_batch_size
            digests.append(state.write_trainer_state(target, curve, max(num_steps, 1), size))
            if foreign_state.stamp(found.folder, [n for n, _, _ in found.stamp]) != found.stamp:
                raise StateError(f"{found.folder} changed while it was read", _CHANGED)
        return digests

    def _moments(self, found: Found, *, mmap: bool = False) -> dict[str, Any]:
        """optimizer.pt, once its parameters are as many and as large as the model's."""
        assert found.moments is not None
        if found.moments.optimizer != self.parameters["optimizer"]:
            raise ConfigError(
                f"{found.folder} was trained with {found.moments.optimizer}, and "
                f"train.optimizer = {self.settings.train.optimizer} cannot go on with its moments",
                "leave out `--set train.optimizer=...`",
            )
        saved = dict(state.load_torch(found.folder / state.OPTIMIZER, mmap=mmap))
        groups = self.parameters["groups"]
        sizes = [len(group.get("params") or ()) for group in saved["param_groups"]]
        if list(filter(None, sizes)) != [len(group) for group in groups if group]:
            raise StateError(
                f"{state.OPTIMIZER} has groups of {sizes} parameters, a Trainer makes "
                f"{[len(group) for group in groups]} of this model",
                "",
            )
        state.check_moments(saved, [shape for group in groups for _, shape in group])
        return saved

    def _write_moments(self, found: Found, target: Path) -> list[FileDigest]:
        folder, how, lifetime = found.folder, self.settings.train, found.lifetime_step
        digests = [
            state.write_torch(target, state.OPTIMIZER, self._moments(found)),
            state.write_json(target, state.PARAMETERS, self.parameters),
        ]
        if (folder / state.SCHEDULER).is_file():
            stood = state.load_torch(folder / state.SCHEDULER)
        else:  # `mvc train` builds its own; this one is for a plain Trainer
            stood = schedule.build(self.optimizer, how, lifetime, 1).state_dict()
        digests.append(state.write_torch(target, state.SCHEDULER, stood))
        for name in found.rng:
            digests.append(state.write_torch(target, name, state.load_torch(folder / name)))
        if not found.rng:
            from transformers import set_seed

            set_seed((how.seed + lifetime) % 2**31)
            digests.append(state.write_torch(target, rng.file_name(0, 1), rng.capture(1)))
        return digests

    def _tokenizer(self, found: Found) -> dict[str, bytes]:
        """The files of its tokenizer, by name; the base's where it has none."""
        if found.tokenizer:
            return {name: (found.folder / name).read_bytes() for name in found.tokenizer}
        if not self._base_tokenizer:
            with tempfile.TemporaryDirectory() as folder:
                self.session.base_tokenizer(self.settings).save_pretrained(folder)
                paths = sorted(Path(folder).iterdir())
                self._base_tokenizer = {path.name: path.read_bytes() for path in paths}
        return self._base_tokenizer
