"""The base model in memory, with a line's adapter on it.

Owns loading the base once for all batches of one process, putting an adapter on it, and making
the untrained state of a new model repo.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mvc.engine import base as bases
from mvc.engine import files, state, untrusted
from mvc.engine.quiet import quiet
from mvc.engine.rows import Rows, prepare
from mvc.errors import ConfigError, StateError
from mvc.settings import LoraSettings, Settings
from mvc.types import FileDigest

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Session:
    """The base model, kept between the batches of one process.

    Loading a 7B base takes longer than many batches; after any exception it is loaded anew,
    because a half-finished Trainer leaves hooks behind.
    """

    root: Path
    _base: tuple[tuple[str, str, str], PreTrainedModel] | None = None
    _tokenizer: tuple[object, PreTrainedTokenizerBase] | None = None
    _rows: dict[tuple[str, bytes, object], Rows] = field(default_factory=dict)

    def base(self, settings: Settings) -> bases.Base:
        """The base that mvc.toml names, with its digest checked."""
        found = bases.resolve(settings.base.model, settings.base.revision, self.root)
        bases.check(found, settings.base.digest)
        return found

    def tokenizer(self, settings: Settings, folder: Path) -> PreTrainedTokenizerBase:
        """The line's own tokenizer, from the state in `folder`; the base's where it has none.

        Not the base's at every batch: its digest is of the weights, and other token ids under the
        same weights would be learned without a word.
        """
        key = _identity(folder) or settings.base.digest
        if self._tokenizer is None or self._tokenizer[0] != key:
            own = isinstance(key, tuple)
            found = bases.open_tokenizer(folder) if own else self.base_tokenizer(settings)
            self._tokenizer = (key, found)
        return self._tokenizer[1]

    def base_tokenizer(self, settings: Settings) -> PreTrainedTokenizerBase:
        """The base's tokenizer, for the first state of a line."""
        return bases.load_tokenizer(self.base(settings))

    def rows(self, settings: Settings, folder: Path, data: Path, md5: str) -> Rows:
        """The rows of a data file with this content, prepared once.

        Raises:
            DataError: the file cannot be a batch.
        """
        key = (md5, msgspec.json.encode(settings.train), _identity(folder))
        if key not in self._rows:
            tokenizer = self.tokenizer(settings, folder)
            with quiet():
                self._rows[key] = prepare(files.read(data), tokenizer, settings.train, md5)
        return self._rows[key]

    def forget(self, md5: str) -> None:
        """Let go of a batch's rows."""
        self._rows = {key: rows for key, rows in self._rows.items() if key[0] != md5}

    @contextmanager
    def adapter(self, settings: Settings, folder: Path) -> Iterator[PeftModel]:
        """The base with the adapter of `folder` on it, trainable; checked before it is loaded."""
        from peft import get_peft_model

        untrusted.check_files(folder)
        adapter = _config(folder, settings)
        precision = settings.train.precision
        key = (settings.base.model, settings.base.digest, precision)
        if self._base is None or self._base[0] != key:
            self._base = (key, bases.load_model(self.base(settings), precision))
        base = self._base[1]
        self._base = None
        model = get_peft_model(base, adapter)
        state.check_adapter(folder, model)
        state.load_adapter(folder, model)
        yield model
        self._base = (key, _bare(model))


def _identity(folder: Path) -> object:
    """What tells a state's tokenizer from another's, unread; None where there is none."""
    names = ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja")
    found = [(name, (folder / name).stat()) for name in names if (folder / name).is_file()]
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in found) or None


def _bare(model: PeftModel) -> PreTrainedModel:
    """The base without the adapter, as it was: `unload` leaves trained modules_to_save in it."""
    from peft.utils import ModulesToSaveWrapper

    originals = {
        name: module.original_module
        for name, module in model.base_model.model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
    base: PreTrainedModel = model.unload()
    for name, module in originals.items():
        base.set_submodule(name, module)
    return base


def _config(folder: Path, settings: Settings) -> LoraConfig:
    """The stored adapter's shape, trainable, with what mvc.toml may change on a line: dropout.

    Raises:
        StateError: adapter_config.json is missing, or is no LoRA's.
    """
    header = state.adapter_header(folder / state.ADAPTER)
    try:
        # Not from_pretrained: it asks the hub for a file that is missing here.
        found = dict(json.loads((folder / state.ADAPTER_CONFIG).read_text()))
        config = untrusted.lora(found, header)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateError(
            f"{state.ADAPTER_CONFIG} of the state cannot be used: {str(error)[:200]}",
            "run `mvc fsck`, then `mvc checkout` of a revision that is whole",
        ) from error
    config.inference_mode = False
    config.lora_dropout = settings.lora.dropout
    return config


def _check_names(model: PreTrainedModel, lora: LoraSettings) -> None:
    # PEFT is content when one of several names fits, and never looks at modules_to_save.
    names = [name for name, _ in model.named_modules()]
    targets = lora.target_modules if isinstance(lora.target_modules, list) else []
    for wanted in [*targets, *lora.modules_to_save]:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in names):
            raise ValueError(f"it has no module {wanted}")


def create(settings: Settings, root: Path, folder: Path) -> tuple[list[FileDigest], int]:
    """The untrained state: the adapter from the seed, the tokenizer, no moments yet.

    Returns:
        The files written into `folder`, and the number of trainable parameters.

    Raises:
        ConfigError: the LoRA settings fit no module of the base.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    session = Session(root)
    found = session.base(settings)
    model = bases.load_model(found, settings.train.precision)
    lora = settings.lora
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        modules_to_save=lora.modules_to_save or None,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
    )
    set_seed(settings.train.seed)
    try:
        _check_names(model, lora)
        with quiet():
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            f"LoRA cannot be put on {settings.base.model}: {error}",
            "correct lora.target_modules or lora.modules_to_save (`mvc init --set ...`)",
        ) from error
    digests = state.write_adapter(folder, adapted, settings.base.model)
    session.base_tokenizer(settings).save_pretrained(folder)
    written = {d.path for d in digests}
    for path in sorted(folder.iterdir()):
        if path.name not in written:
            digests.append(state.write_bytes(folder, path.name, path.read_bytes()))
    digests.append(state.write_trainer_state(folder, (), 0, settings.train.micro_batch_size))
    return digests, sum(math.prod(shape) for _, shape in state.trainable(adapted))
