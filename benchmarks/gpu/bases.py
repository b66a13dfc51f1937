"""What the GPU session trains: bases of random weights in Qwen2.5's shapes, and rows for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics


@dataclass(frozen=True)
class Shape:
    """A base as Qwen2.5's, LoRA's rank, and a batch: rows of `length` tokens, packed."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    rank: int
    length: int
    rows: int
    steps: int

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one block, as (in, out)."""
        head = self.hidden // self.heads
        kv = self.kv_heads * head
        return {
            "q": (self.hidden, self.hidden),
            "k": (self.hidden, kv),
            "v": (self.hidden, kv),
            "o": (self.hidden, self.hidden),
            "gate": (self.hidden, self.intermediate),
            "up": (self.hidden, self.intermediate),
            "down": (self.intermediate, self.hidden),
        }

    @property
    def num_lora(self) -> int:
        """Trained parameters: LoRA on all linear layers but the head."""
        return self.layers * self.rank * sum(map(sum, self.linear.values()))


SHAPES = {
    "7b": Shape(152064, 3584, 18944, 28, 28, 4, 32, 4096, 1, 12),
    "1b": Shape(151936, 1536, 8960, 28, 12, 2, 32, 4096, 1, 32),
    "tiny": Shape(512, 64, 128, 2, 4, 2, 4, 64, 1, 4),
}


def flops_per_token(base: str) -> float:
    """Model FLOPs of one trained token; what checkpointing computes twice counts once.

    Forward and backward through frozen weights are 2 each (no gradient of theirs), through LoRA's
    6. Attention: forward 2 products over half a row (causal), backward twice that; documents
    inside a row make it less, so that this is an upper bound of a few percent.
    """
    shape = SHAPES[base]
    frozen = shape.layers * sum(a * b for a, b in shape.linear.values())
    frozen += shape.vocabulary * shape.hidden
    attention = shape.layers * 3 * 2 * 2 * shape.hidden * shape.length / 2
    return 4.0 * frozen + 6.0 * shape.num_lora + attention


def make(base: str, where: Path) -> Path:
    """The base on disk, random weights in bf16, with a small tokenizer; made once."""
    if (where / "done").exists():
        return where
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    shape = SHAPES[base]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        topics.values(),
        trainers.BpeTrainer(
            vocab_size=min(shape.vocabulary, 8192),
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[0], pad_token=special[0]
    )
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(where)
    tokenizer.save_pretrained(where)
    (where / "done").touch()
    return where


def data(shape: Shape, folder: Path, count: int) -> list[Path]:
    """`count` files of real text, for `shape.steps` steps each, as short chats would pack."""
    texts = [" ".join(text.split()) for _, text in sorted(topics.items())]
    words = " ".join(texts).split(" ")
    need = shape.steps * shape.rows * shape.length  # a word is a token at least
    paths = []
    for i in range(count):
        path = folder / f"data-{i}.jsonl"
        rows, taken, at = [], 0, i * 1000
        while taken < need:
            size = min(20 + (at * 7919) % 200, shape.length - 2)
            piece = [words[(at + k) % len(words)] for k in range(size)]
            rows.append(json.dumps({"text": " ".join(piece)}))
            taken, at = taken + size, at + size
        path.write_text("\n".join(rows) + "\n")
        paths.append(path)
    return paths
