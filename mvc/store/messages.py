"""What a commit's message says of a batch, written and read back.

Owns the format: the subject, the user's words, trailers.

    Batch 12: day-03.jsonl, loss 2.31 -> 2.10

    what the user said with --message

    Kind: batch
    Batch: 12
    ...

Only the last paragraph holds trailers, so the user's words above cannot pass for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import msgspec

from mvc.types import Commit, Data, Gate, Kind, Loss, Rate
from mvc.version import VERSION

CURVE_POINTS = 32
T = TypeVar("T")

# Patterns as text: whoever only reads the history need not wait until they are compiled.
_FORGED = (
    r"(?i)(kind|batch|data|data-md5|rows|tokens|steps|lifetime-step|loss-\w+|rate-\w+|seconds|"
    r"rollback-to|gate|warning|mvc-version)\s*:"
)
# What would break a line, steer a terminal, or not survive UTF-8; the backslash begins an escape.
_UNSAFE = "[\\\\\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|^ | $"
_HASH = r"[0-9a-f]{40}([0-9a-f]{24})?"


def start_subject(base: str, r: int) -> str:
    """The subject of a line's first commit: `Start: smollm2-135m, LoRA r=16`."""
    return f"Start: {_escape(base)}, LoRA r={r}"


def batch_subject(commit: Commit) -> str:
    """The subject of a batch: `Batch 12: day-03.jsonl, loss 2.31 -> 2.10`."""
    name = f": {_escape(commit.data.name)}" if commit.data else ""
    loss = f", loss {commit.loss.first:.2f} -> {commit.loss.last:.2f}" if commit.loss else ""
    return f"Batch {commit.batch}{name}{loss}"


def rollback_subject(target: Commit) -> str:
    """The subject of a rollback to `target`: `Roll back to @2 (abc1234567)`."""
    number = 0 if target.kind == "init" else target.batch
    return f"Roll back to {target.short if number is None else f'@{number} ({target.short})'}"


def format_message(commit: Commit, body: str | None = None) -> str:
    """The whole commit message: subject, body, trailers; `log` reads it back.

    Numbers are written so that they read back exactly, but for the curve: it is thinned to 32
    points of 4 significant digits, the means of equal stretches.

    Args:
        commit: What to say. Hash, parents, time, branches and snapshots are git's and ignored.
            The first line of `message` is the subject, the rest the body; an empty `message` is
            a batch's usual subject.
        body: The user's own words, instead of those in `commit.message`. Lines that look like a
            trailer are indented.
    """
    subject, _, rest = commit.message.partition("\n")
    words = _body(rest if body is None else body)
    pairs: list[tuple[str, object]] = [("Kind", commit.kind), ("Batch", commit.batch)]
    if commit.data:
        pairs += [
            ("Data", _escape(commit.data.name)),
            ("Data-MD5", commit.data.md5),
            ("Rows", commit.data.rows),
            ("Tokens", commit.data.tokens),
        ]
    pairs += [("Steps", commit.steps), ("Lifetime-Step", commit.lifetime_step)]
    if loss := commit.loss:
        pairs += [("Loss-First", loss.first), ("Loss-Last", loss.last), ("Loss-Mean", loss.mean)]
    if commit.curve:
        pairs.append(("Loss-Curve", " ".join(f"{loss:.4g}" for loss in _thin(commit.curve))))
    if rate := commit.learning_rate:
        pairs += [("Rate-First", rate.first), ("Rate-Last", rate.last)]
    if gate := commit.gate:
        pairs.append(("Gate", f"{gate.metric} {gate.value} {gate.md5}"))
    pairs += [("Seconds", commit.seconds), ("Rollback-To", commit.rollback_to)]
    pairs += [("Warning", _escape(warning)) for warning in commit.warnings]
    pairs.append(("Mvc-Version", VERSION))
    trailers = "\n".join(f"{key}: {value}" for key, value in pairs if value is not None)
    # str(float) is its shortest exact form, as repr is.
    # Of ASCII only: a file may be named by a space of another kind.
    head = _visible(subject.strip(" \t\r\v\f")) or batch_subject(commit)
    return "\n\n".join(part for part in (head, words, trailers) if part) + "\n"


def _escape(text: str) -> str:
    return re.sub(_UNSAFE, lambda found: f"\\u{ord(found[0]):04x}", text)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)


def _visible(text: str) -> str:
    """Control characters as escapes; unlike `_escape` it may be applied twice."""
    return re.sub(_UNSAFE, lambda found: found[0] if found[0] in "\\ " else _escape(found[0]), text)


def _body(text: str) -> str:
    """The user's words: lines kept, control characters visible, no line that forges a trailer."""
    lines = [_visible(line.replace("\t", "    ").rstrip()) for line in text.splitlines()]
    return "\n".join(f"    {line}" if re.match(_FORGED, line) else line for line in lines).strip(
        "\n"
    )


def _thin(curve: Sequence[float]) -> list[float]:
    """At most 32 points: the means of stretches that differ by one point in length at most."""
    count = min(CURVE_POINTS, len(curve))
    edges = [index * len(curve) // count for index in range(count + 1)]
    return [sum(curve[start:end]) / (end - start) for start, end in pairwise(edges)]


_NUMBERS = msgspec.json.Decoder(tuple[float, ...])


class _Trailers(msgspec.Struct):
    """The trailers of a message; msgspec makes the numbers of their text, in C."""

    kind: Kind = msgspec.field(name="Kind")
    steps: int = msgspec.field(name="Steps")
    lifetime_step: int = msgspec.field(name="Lifetime-Step")
    batch: int | None = msgspec.field(name="Batch", default=None)
    data: str | None = msgspec.field(name="Data", default=None)
    data_md5: str | None = msgspec.field(name="Data-MD5", default=None)
    rows: int | None = msgspec.field(name="Rows", default=None)
    tokens: int | None = msgspec.field(name="Tokens", default=None)
    loss_first: float | None = msgspec.field(name="Loss-First", default=None)
    loss_last: float | None = msgspec.field(name="Loss-Last", default=None)
    loss_mean: float | None = msgspec.field(name="Loss-Mean", default=None)
    loss_curve: str = msgspec.field(name="Loss-Curve", default="")
    rate_first: float | None = msgspec.field(name="Rate-First", default=None)
    rate_last: float | None = msgspec.field(name="Rate-Last", default=None)
    gate: str | None = msgspec.field(name="Gate", default=None)
    seconds: float | None = msgspec.field(name="Seconds", default=None)
    rollback_to: str | None = msgspec.field(name="Rollback-To", default=None)


def parse_message(gits: dict[str, Any], text: str) -> Commit:
    """The commit of this message, as `format_message` wrote it.

    Args:
        gits: What git knows of it: hash, parents, time, branches, snapshots, whether HEAD is there.
        text: The message.

    Raises:
        ValueError: another hand wrote it.
    """
    message, _, tail = text.rpartition("\n\n")
    lines = [line for line in tail.split("\n") if ": " in line]
    told = dict([line.split(": ", 1) for line in lines])
    said = msgspec.convert(told, _Trailers, strict=False)
    if not message or (said.rollback_to is not None and not re.fullmatch(_HASH, said.rollback_to)):
        raise ValueError
    data = _whole(Data, said.data and _unescape(said.data), said.data_md5, said.rows, said.tokens)
    return Commit(
        **gits,
        kind=said.kind,
        batch=said.batch,
        message=message,
        data=data,
        steps=said.steps,
        lifetime_step=said.lifetime_step,
        loss=_whole(Loss, said.loss_first, said.loss_last, said.loss_mean),
        learning_rate=_whole(Rate, said.rate_first, said.rate_last),
        seconds=said.seconds,
        curve=_curve(said.loss_curve),
        rollback_to=said.rollback_to,
        gate=None if said.gate is None else _gate(said.gate),
        warnings=_warnings(lines) if "Warning" in told else (),
    )


def _curve(told: str) -> tuple[float, ...]:
    try:
        # as JSON, in a fifth of the time: half a log of 10,000 commits is their curves
        return _NUMBERS.decode(f"[{told.replace(' ', ',')}]")
    except msgspec.DecodeError:  # JSON knows no NaN
        return tuple(map(float, told.split()))


def _warnings(lines: list[str]) -> tuple[str, ...]:
    pairs = (line.split(": ", 1) for line in lines)
    return tuple(_unescape(value) for key, value in pairs if key == "Warning")


def _whole(record: Callable[..., T], *values: object) -> T | None:
    """The record of these values; None where all are missing, an error where some are."""
    if values.count(None) == len(values):
        return None
    if None in values:
        raise ValueError
    return record(*values)


def _gate(told: str) -> Gate:
    metric, value, md5 = told.split(" ")
    return Gate(metric, float(value), md5)
