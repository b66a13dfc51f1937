"""The base model in memory, with a line's adapter on it.

Owns loading the base once for all batches of one process, putting an adapter on it, and making
the untrained state of a new model repo.
"""

from __future__ import annotations

import gc
import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mvc.engine import base as bases
from mvc.engine import code, files, state, untrusted
from mvc.engine.live import Carried, LiveState
from mvc.engine.quiet import quiet
from mvc.engine.rows import Rows, prepare
from mvc.errors import ConfigError, StateError
from mvc.settings import LoraSettings, Settings
from mvc.types import FileDigest

_Key = tuple[str, str, str, bytes]
"""Base, its digest, precision, and all that the adapter and its Trainer are built from."""

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mvc.engine.trainer import BatchTrainer


class Warm(msgspec.Struct, frozen=True):
    """What a batch leaves in memory for the next one, beside the adapter on the base.

    `trainer` has the moments, `rng` is the random state after the last step, `carried` the state's
    files that training does not change. Nobody may step on it before `cloned` returns.
    """

    trainer: BatchTrainer
    rng: dict[str, Any]
    carried: Carried
    cloned: Callable[[], None]


@dataclass
class Session:
    """The base model, kept between the batches of one process.

    Loading a 7B base takes longer than many batches; after any exception it is loaded anew,
    because a half-finished Trainer leaves hooks behind. `allowed` is the digest of the base's code
    that this user lets the repo run (`code.permit`). `spare` holds the copy of a state that was
    written, for its memory.
    """

    root: Path
    allowed: str = ""
    warm: Warm | None = None
    spare: deque[LiveState] = field(default_factory=lambda: deque(maxlen=1))
    _adapted: tuple[_Key, PeftModel] | None = None
    _base: tuple[_Key, PreTrainedModel] | None = None
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
            found = self._own_tokenizer(settings, folder) if own else self.base_tokenizer(settings)
            self._tokenizer = (key, found)
        return self._tokenizer[1]

    def base_tokenizer(self, settings: Settings) -> PreTrainedTokenizerBase:
        """The base's tokenizer, for the first state of a line."""
        return bases.load_tokenizer(self.base(settings), self.allowed)

    def _own_tokenizer(self, settings: Settings, folder: Path) -> PreTrainedTokenizerBase:
        found = code.find(folder)
        if not found.classes:
            return bases.open_tokenizer(folder)
        base = self.base(settings)
        trusted = code.permit(base.ref, base.code, self.allowed)
        code.check_copy(found, base.code)
        return bases.open_tokenizer(folder, trusted=trusted)

    def rows(self, settings: Settings, folder: Path, data: Path, md5: str) -> Rows:
        """The rows of a data file with this content, prepared once.

        Raises:
            DataError: the file cannot be a batch.
        """
        key = (md5, msgspec.json.encode(settings.train), _identity(folder))
        if key not in self._rows:
            tokenizer = self.tokenizer(settings, folder)
            self.forget(md5)  # what other settings made of it: the gate's file stays for ever
            with quiet():
                self._rows[key] = prepare(files.read(data), tokenizer, settings.train, md5)
        return self._rows[key]

    def forget(self, md5: str) -> None:
        """Let go of a batch's rows."""
        for key in [key for key in list(self._rows) if key[0] == md5]:  # a thread may add one
            self._rows.pop(key, None)

    @contextmanager
    def adapter(
        self,
        settings: Settings,
        folder: Path,
        *,
        warm: bool = False,
        hold: bool = False,
        spread: bool = False,
    ) -> Iterator[PeftModel]:
        """The base with an adapter on it, trainable.

        Args:
            settings: mvc.toml's.
            folder: the state whose adapter it is, checked before it is loaded.
            warm: the adapter that the batch before has left here, instead.
            hold: leave this one here, for the batch after.
            spread: FSDP takes the base to pieces; it is loaded anew for the batch after.
        """
        key = _key(settings)
        kept, self._adapted, self.warm = self._adapted, None, None
        if not warm:
            self._base = (kept[0], _bare(kept[1])) if kept else self._base
            model = self._load(settings, folder, key)
        elif kept is None or kept[0] != key:
            raise StateError(
                "the state in memory is not of these settings",
                "run the same command again: it begins from the stored state",
            )
        else:
            model = kept[1]
        yield model
        if hold:
            self._adapted = (key, model)
        elif not spread:
            self._base = (key, _bare(model))

    def _load(self, settings: Settings, folder: Path, key: _Key) -> PeftModel:
        adapter = shape(folder, settings)
        if self._base is None or self._base[0][:3] != key[:3]:
            # The one before may be alive still, in cycles with the Trainer that failed.
            self._base = None
            gc.collect()
            self.free()
            found, precision = self.base(settings), settings.train.precision
            model = bases.load_model(
                found, precision, allowed=self.allowed, quantization=settings.base.quantization
            )
            self._base = (key, model)
        base, self._base = self._base[1], None
        return put_on(base, adapter, folder)

    def is_warm(self, settings: Settings) -> bool:
        """Whether a batch with these settings can go on from what is in memory."""
        return (
            self.warm is not None
            and self._adapted is not None
            and self._adapted[0] == _key(settings)
        )

    def free(self) -> None:
        """Give the device's memory back that nothing uses any more."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def cool(self) -> None:
        """Forget the state in memory; the base stays."""
        if self._adapted is not None:
            self._base = (self._adapted[0], _bare(self._adapted[1]))
        self._adapted = self.warm = None
        self.spare.clear()


def _key(settings: Settings) -> _Key:
    base, built = settings.base, msgspec.json.encode((settings.lora, settings.train))
    return (base.model, base.digest, settings.train.precision + base.quantization, built)


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


def shape(folder: Path, settings: Settings) -> LoraConfig:
    """The stored adapter's shape, trainable, with what mvc.toml may change on a line: dropout.

    Raises:
        StateError: adapter_config.json is missing, or is no LoRA's; a file holds more than data.
    """
    untrusted.check_files(folder)
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


def put_on(base: PreTrainedModel, adapter: LoraConfig, folder: Path) -> PeftModel:
    """`base` with the adapter in `folder` on it, whose `shape` is `adapter`.

    Raises:
        StateError: the stored tensors are not the model's.
    """
    from peft import get_peft_model

    model = get_peft_model(base, adapter)
    state.check_adapter(folder, model)
    state.load_adapter(folder, model)
    return model


def _check_names(model: PreTrainedModel, lora: LoraSettings) -> None:
    # PEFT is content when one of several names fits, and never looks at modules_to_save.
    names = [name for name, _ in model.named_modules()]
    targets = lora.target_modules if isinstance(lora.target_modules, list) else []
    for wanted in [*targets, *lora.modules_to_save]:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in names):
            raise ValueError(f"it has no module {wanted}")


def create(
    settings: Settings, root: Path, folder: Path, allowed: str = ""
) -> tuple[list[FileDigest], int]:
    """The untrained state: the adapter from the seed, the tokenizer, no moments yet.

    `allowed` is as in `Session`.

    Returns:
        The files written into `folder`, and the number of trainable parameters.

    Raises:
        ConfigError: the LoRA settings fit no module of the base.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    session = Session(root, allowed)
    found = session.base(settings)
    model = bases.load_model(
        found,
        settings.train.precision,
        allowed=allowed,
        quantization=settings.base.quantization,
    )
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
