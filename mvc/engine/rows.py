"""Rows: from checked records to what the Trainer sees, token by token and in order.

Owns lengths (split, truncate, drop, count), the order of rows over passes, and the number of
steps. Chat templates, loss masks, EOS and packing are TRL's own code. Reads no files (`files`).

Source: trl 1.16, trainer/sft_trainer.py (`_prepare_dataset`), data_utils.py (`pack_dataset`).
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from mvc.engine.files import Records
from mvc.errors import BaseModelError, ConfigError, DataError, MvcError
from mvc.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that no loss is computed on."""
_ALONE = threading.Lock()
"""Held while TRL prepares rows. What `_in_memory` sets is the whole process's, and so is stdout,
which dill takes while `datasets` hashes a function: two at once may never give it back."""


class Rows(msgspec.Struct, frozen=True):
    """A batch as it is trained, one pass, before the order.

    `input_ids` and `labels` are lists of equal lengths, at most `max_length`; `seq_lengths` the
    lengths of the documents packed into each row, None without packing. `num_records` counts the
    file's records, `num_truncated` those that lost tokens to `max_length`, of which
    `num_dropped` lost everything that could be learned, `num_split` those cut into several
    documents, `num_tokens` the tokens of all rows, `num_trainable_tokens` those that are predicted.
    """

    input_ids: list[list[int]]
    labels: list[list[int]]
    seq_lengths: list[list[int]] | None
    num_records: int
    num_truncated: int
    num_split: int
    num_dropped: int
    num_tokens: int
    num_trainable_tokens: int

    @property
    def num_sequences(self) -> int:
        """Rows of one pass."""
        return len(self.input_ids)


def prepare(
    records: Records, tokenizer: PreTrainedTokenizerBase, train: TrainSettings, batch_md5: str = ""
) -> Rows:
    """Tokenise, mask, cut and pack the records of a batch.

    Texts end with EOS and are cut into documents of `max_length`, so that no token is lost; chats
    and completions lose what is beyond it. Of prompt and completion only the completion has
    labels; with `assistant_only`, only what the assistant says. A document in which nothing can be
    predicted (one token, or all labels cut away) is dropped. Packing is TRL's best-fit-decreasing
    over the whole batch; the rows depend on the records alone (`batch_md5` enters in `order`).

    In a process group every rank must call this (TRL's preparation waits for the main process).

    Raises:
        DataError: a record without a trainable token, or one that the chat template refuses.
        ConfigError: `train.assistant_only` with data or a template that it cannot work on.
        BaseModelError: the tokenizer lacks what is needed (an EOS token, a chat template).
    """
    if not tokenizer.eos_token:
        raise BaseModelError(
            "the base model's tokenizer has no end-of-sequence token",
            "choose another base, or add `eos_token` to its tokenizer_config.json",
        )
    template = _template(records, tokenizer, train)
    encode = _encoder(records, tokenizer, train, template)
    ids, labels = _encode_all(records, encode)
    size = train.max_length
    documents: list[tuple[list[int], list[int]]] = []
    num_truncated = num_split = num_dropped = 0
    for source, tokens, targets in zip(records.sources, ids, labels, strict=True):
        if not _trainable(targets):
            raise DataError(
                f"{source}: no trainable token ({len(tokens)} tokens, none to be predicted)",
                "leave the record out, or give it something to learn"
                + (" that the assistant says" if train.assistant_only else ""),
            )
        if len(tokens) <= size:
            documents.append((tokens, targets))
            continue
        starts = range(0, len(tokens), size) if records.kind == "text" else range(1)
        num_split += len(starts) > 1
        num_truncated += len(starts) == 1
        cuts = [(tokens[at : at + size], targets[at : at + size]) for at in starts]
        kept = [cut for cut in cuts if _trainable(cut[1])]
        num_dropped += not kept
        documents += kept
    if not documents:
        raise DataError(
            f"no record has a trainable token within train.max_length = {size}",
            "raise train.max_length in mvc.toml, or shorten the prompts",
        )
    rows, targets_of, lengths = _pack(documents, size) if train.packing else _unpacked(documents)
    return Rows(
        input_ids=rows,
        labels=targets_of,
        seq_lengths=lengths,
        num_records=len(records.rows),
        num_truncated=num_truncated,
        num_split=num_split,
        num_dropped=num_dropped,
        num_tokens=sum(map(len, rows)),
        num_trainable_tokens=sum(
            label != IGNORED for _, targets in documents for label in targets[1:]
        ),
    )


def order(rows: Rows, train: TrainSettings, batch_md5: str) -> list[int]:
    """Which row is trained when, all passes one after the other.

    Each pass is a permutation drawn from (seed, batch, pass) alone: the ranks of raw PCG64 output,
    the only part of numpy's random numbers that is promised never to change (NEP 19).
    """
    import numpy as np

    found: list[int] = []
    for number in range(train.passes):
        if not train.shuffle:
            found += range(rows.num_sequences)
            continue
        key = hashlib.sha256(f"{train.seed}:{batch_md5}:{number}".encode()).digest()
        bits = np.random.PCG64(np.random.SeedSequence(int.from_bytes(key, "big")))
        found += np.argsort(bits.random_raw(rows.num_sequences), kind="stable").tolist()
    return found


def num_steps(num_rows_ordered: int, train: TrainSettings, world_size: int = 1) -> int:
    """Optimizer steps of one Trainer epoch over that many rows; the last may be a smaller one.

    Source: accelerate's `BatchSamplerShard.__len__` (even batches), transformers'
    `Trainer.set_initial_training_values`.
    """
    micro_batches = math.ceil(num_rows_ordered / (train.micro_batch_size * world_size))
    return math.ceil(micro_batches / train.gradient_accumulation_steps)


class Dataset:
    """Rows in a given order for the Trainer (map style), from the `start_row`-th on.

    A checkpoint resumes by slicing. `remove_unused_columns` must be off, or `seq_lengths` is lost
    before the collator sees it.
    """

    def __init__(self, rows: Rows, order: Sequence[int], start_row: int = 0) -> None:
        self._rows = rows
        self._order = order[start_row:]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        at = self._order[index]
        row = {"input_ids": self._rows.input_ids[at], "labels": self._rows.labels[at]}
        if self._rows.seq_lengths is not None:
            row["seq_lengths"] = self._rows.seq_lengths[at]
        return row


def dataset(rows: Rows, order: Sequence[int], start_row: int = 0) -> Dataset:
    """The rows in that order, from the `start_row`-th on, as the Trainer's `train_dataset`."""
    return Dataset(rows, order, start_row)


def collator(
    tokenizer: PreTrainedTokenizerBase, packed: bool
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """TRL's collator: int64 tensors of shape (rows, longest row).

    `input_ids` and `labels`, with `attention_mask`, or for packed rows `position_ids` instead:
    they start again at each document, and transformers builds the block-diagonal mask from them
    (only without an attention mask and with `use_cache` off).

    TRL itself lays packed rows end to end, shape (1, tokens). With sdpa attention that costs rows
    times the attention: measured on SmolLM2-135M, 4 rows of 512 tokens, 2 cores, the same loss,
    34 s against 14 s for a step forward and backward.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    token = tokenizer.pad_token_id
    pad = tokenizer.eos_token_id if token is None else token
    pad_rows: Callable[[list[dict[str, Any]]], dict[str, Any]] = DataCollatorForLanguageModeling(
        pad_token_id=pad, return_position_ids=packed
    )

    def pad_packed(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = pad_rows(examples)
        del batch["attention_mask"]
        return batch

    return pad_packed if packed else pad_rows


# --- tokens -------------------------------------------------------------------------------------

_Encoded = tuple[list[list[int]], list[list[int]]]
_SWITCH_OFF = "set `train.assistant_only = false` in mvc.toml"


def _trainable(labels: list[int]) -> bool:
    # The first token of a document is predicted from nothing.
    return any(label != IGNORED for label in labels[1:])


def _is_chat(records: Records) -> bool:
    return isinstance(records.rows[0].get("messages", records.rows[0].get("prompt")), list)


def _template(
    records: Records, tokenizer: PreTrainedTokenizerBase, train: TrainSettings
) -> str | None:
    """The chat template to train with where it is not the tokenizer's own."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    chat = _is_chat(records)
    if chat and not tokenizer.chat_template:
        raise BaseModelError(
            f"{records.sources[0]} is a chat, but the base model has no chat template",
            "use `text`, or strings as `prompt` and `completion`, or an instruct model as base",
        )
    if not train.assistant_only or (records.kind == "prompt_completion" and not chat):
        return None  # of a completion, only the completion is trained anyway
    if not chat:
        raise ConfigError(
            f"train.assistant_only is on, but {records.sources[0]} is a {records.kind} record",
            _SWITCH_OFF,
        )
    if has_generation_markers(tokenizer.chat_template):
        return None
    try:
        found: str | None = get_training_chat_template(tokenizer)
    except ValueError as error:
        raise ConfigError(
            "train.assistant_only is on, but the base model's chat template does not tell which"
            " tokens are the assistant's, and TRL knows no variant of it that does",
            _SWITCH_OFF,
        ) from error
    return found


def _encoder(
    records: Records,
    tokenizer: PreTrainedTokenizerBase,
    train: TrainSettings,
    template: str | None,
) -> Callable[[list[dict[str, Any]]], _Encoded]:
    """TRL's own preparation, up to where lengths matter, as a function of records.

    `SFTTrainer._prepare_dataset` uses three attributes of its trainer and no model, so that a
    stand-in is enough; a test holds the outcome against a real SFTTrainer's.
    """
    import datasets
    from trl import SFTTrainer

    trainer = SimpleNamespace(
        _tokenizer=tokenizer,
        chat_template=template,
        completion_only_loss=records.kind == "prompt_completion",
    )
    chat = _is_chat(records)
    args = SimpleNamespace(
        dataset_num_proc=None,
        dataset_text_field="text",
        assistant_only_loss=train.assistant_only and chat,
        max_length=None,
        shuffle_dataset=False,
    )

    def encode(rows: list[dict[str, Any]]) -> _Encoded:
        table = datasets.Dataset.from_list(rows)
        done = SFTTrainer._prepare_dataset(trainer, table, tokenizer, args, False, None, "train")
        return list(done["input_ids"]), list(done["labels"])

    return encode


def _encode_all(records: Records, encode: Callable[[list[dict[str, Any]]], _Encoded]) -> _Encoded:
    with _ALONE, _in_memory():
        try:
            return encode(records.rows)
        except Exception as error:
            # Which record was it? Only now is one at a time worth its cost.
            for source, row in zip(records.sources, records.rows, strict=True):
                try:
                    encode([row])
                except Exception as own:
                    raise _refused(source, row, own) from None
            if isinstance(error, MvcError):
                raise
            raise DataError(
                f"{records.sources[0]} and what follows cannot be tokenised: {error}",
                "train a part of the file to find the record",
            ) from error


def _refused(source: str, row: dict[str, Any], error: Exception) -> DataError:
    if isinstance(error, RuntimeError) and "no assistant" in str(error):
        return DataError(
            f"{source}: no trainable token: the assistant says nothing in it",
            f"leave the record out, or {_SWITCH_OFF}",
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    what = "the chat template refuses it" if "text" not in row else "it cannot be tokenised"
    return DataError(f"{source}: {what}: {reason}", "change the record, or leave it out")


def _unpacked(
    documents: list[tuple[list[int], list[int]]],
) -> tuple[list[list[int]], list[list[int]], None]:
    return [tokens for tokens, _ in documents], [labels for _, labels in documents], None


def _pack(
    documents: list[tuple[list[int], list[int]]], size: int
) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    import datasets
    from trl import pack_dataset

    # A document's first token is not to be predicted from the document before it in its row.
    ids = [tokens for tokens, _ in documents]
    labels = [[IGNORED, *targets[1:]] for _, targets in documents]
    with _ALONE, _in_memory():
        table = datasets.Dataset.from_dict({"input_ids": ids, "labels": labels})
        # By default 1000 documents are packed at a time; all at once, rows are fuller.
        packed = pack_dataset(table, size, "bfd", {"batch_size": None})
        return list(packed["input_ids"]), list(packed["labels"]), list(packed["seq_lengths"])


@contextmanager
def _in_memory() -> Iterator[None]:
    """`datasets` without bars and without files in its cache; TRL's remarks are not shown.

    With no files to share, no rank waits for another, as TRL would have it: rank 0 reads a batch
    before the others know of it.
    """
    import logging

    import datasets
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    process = PartialState()
    kind, process.distributed_type = process.distributed_type, DistributedType.NO
    caching, bars = datasets.is_caching_enabled(), datasets.are_progress_bars_disabled()
    trl_log = logging.getLogger("trl")
    level = trl_log.level
    datasets.disable_caching()
    datasets.disable_progress_bars()
    trl_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        process.distributed_type = kind
        trl_log.setLevel(level)
        if caching:
            datasets.enable_caching()
        if not bars:
            datasets.enable_progress_bars()
