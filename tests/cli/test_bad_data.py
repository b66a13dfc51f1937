"""Data that cannot be a batch, through the command line: Error, Hint, and not one byte moves.

Must-show 8 of issue 2, its first part; test_bad_input.py and test_bad_flags.py hold the others.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mvc.store.config import set_values
from tests.cli.unchanged import Model, assert_refused, call, copy_of, look, make_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("bad-data"))


@pytest.fixture
def model(trained: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return copy_of(trained, tmp_path_factory.mktemp("copy"))


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(columns: dict[str, list[object]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def chat(*turns: tuple[object, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


A, B = {"text": "one"}, {"text": "two"}
QA = {"prompt": "p", "completion": "c"}
HOMES = parquet({"text": ["a" * 100] * 100})
BROKEN_UTF8 = pa.Array.from_buffers(
    pa.string(),
    1,
    [None, pa.py_buffer(b"\x00\x00\x00\x00\x02\x00\x00\x00"), pa.py_buffer(b"\xff\xfe")],
)

# What is wrong: (file name, content, what the error must say)
FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.jsonl", b"", "an empty file"),
    "empty json": ("a.json", b"", "an empty file"),
    "empty list": ("a.json", b"[]", "it holds no record"),
    "empty text": ("a.txt", b"", "an empty file"),
    "empty csv": ("a.csv", b"", "an empty file"),
    "empty parquet": ("a.parquet", b"", "no Parquet file"),
    "a byte order mark alone": ("a.jsonl", b"\xef\xbb\xbf", "an empty file"),
    "blank lines": ("a.jsonl", b"\n \n\t\n", "only blank lines"),
    "broken json": ("a.jsonl", lines(A, B) + b'{"text": \n', "a.jsonl, line 3: no JSON"),
    "a blank line counts": ("a.jsonl", lines(A) + b"\n{oops}\n", "a.jsonl, line 3: no JSON"),
    "the last line is cut": ("a.jsonl", lines(A) + b'{"text": "tw', "a.jsonl, line 2: no JSON"),
    "two objects a line": ("a.jsonl", b'{"text": "a"} {"text": "b"}\n', "line 1: no JSON"),
    "single quotes": ("a.jsonl", b"{'text': 'a'}\n", "line 1: no JSON"),
    "broken list": ("a.json", b'[{"text": "a"},', "no JSON"),
    "a number": ("a.jsonl", lines(A, 42), "line 2: a number where an object"),
    "a list": ("a.jsonl", lines(["text"]), "line 1: a list where an object"),
    "null": ("a.jsonl", lines(None), "line 1: null where an object"),
    "a string": ("a.jsonl", lines("text"), "line 1: a string where an object"),
    "columns in json": ("a.json", lines({"text": ["a", "b"]}), "one object (of columns?)"),
    "no column": ("a.jsonl", lines(A, {"txt": "a"}), "line 2: no column"),
    "column in capitals": ("a.jsonl", lines({"Text": "a"}), "found: Text"),
    "no key at all": ("a.jsonl", lines({}), "found: nothing"),
    "a very long key": ("a.jsonl", lines({"k" * 100_000: 1}), "no column"),
    "mixed kinds": ("a.jsonl", lines(A, QA), "line 2: a prompt_completion record"),
    "both kinds at once": ("a.jsonl", lines({**A, **QA}), "together"),
    "prompt alone": ("a.jsonl", lines({"prompt": "a"}), "`prompt` alone"),
    "prompt of two types": ("a.jsonl", lines({"prompt": [], "completion": "c"}), "`prompt` is"),
    "prompts change type": (
        "a.jsonl",
        lines(QA, {k: chat(("user", "x"))["messages"] for k in QA}),
        "line 2: `prompt` is a list, unlike",
    ),
    "text is a number": ("a.jsonl", lines(A, {"text": 3}), "line 2: `text` is a number"),
    "text is null": ("a.jsonl", lines({"text": None}), "`text` is null"),
    "text is empty": ("a.jsonl", lines({"text": ""}), "`text` is empty"),
    "text is a list": ("a.jsonl", lines({"text": ["a"]}), "`text` is a list"),
    "a NaN": ("a.jsonl", b'{"text": NaN}\n', "`text` is a number"),
    "a number of 5000 digits": ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}\n", "line 1"),
    "a text of one token": ("a.jsonl", lines({"prompt": "p", "completion": ""}), "is empty"),
    "no messages": ("a.jsonl", lines({"messages": []}), "`messages` is an empty list"),
    "messages is a string": ("a.jsonl", lines({"messages": "hi"}), "`messages` is a string"),
    "a message is a string": ("a.jsonl", lines({"messages": ["hi"]}), "line 1"),
    "a message without content": ("a.jsonl", lines({"messages": [{"role": "user"}]}), "content"),
    "a message without role": ("a.jsonl", lines({"messages": [{"content": "a"}]}), "role"),
    "a message with more keys": (
        "a.jsonl",
        lines({"messages": [{"role": "user", "content": "a", "k" * 9000: 1}]}),
        "unknown keys",
    ),
    "content is null": ("a.jsonl", lines(chat(("user", None))), "has no content"),
    "content is a list": ("a.jsonl", lines(chat(("user", [{"type": "text"}]))), "is a list"),
    "role is a number": ("a.jsonl", lines(chat((1, "a"))), "is a number"),
    "tools": ("a.jsonl", lines({**chat(("user", "a")), "tools": [{}]}), "`tools`"),
    "not UTF-8": ("a.jsonl", lines(A) + b'{"text": "caf\xe9"}\n', "line 2, byte"),
    "latin-1 text": ("a.txt", b"caf\xe9", "byte 3 of the file (0xe9)"),
    "UTF-16": ("a.jsonl", lines(A).decode().encode("utf-16"), "not UTF-8: line 1, byte 0"),
    "a NUL": ("a.jsonl", lines({"text": "a\0b"}), "NUL"),
    "binary": ("a.txt", b"\x7fELF" + bytes(100), "NUL"),
    "half a surrogate pair": ("a.jsonl", b'{"text": "a\\ud800"}\n', "half a surrogate pair"),
    "a surrogate in a chat": ("a.jsonl", lines(chat(("user", "\ud800"))), "half a surrogate"),
    "deep nesting": ("a.jsonl", b'{"text": ' + b"[" * 200_000 + b"\n", "line 1: no JSON"),
    "deep nesting, json": ("a.json", b"[" * 200_000, "no JSON"),
    "one huge line": ("a.jsonl", b'{"text": "' + b"x" * 20_000_000, "line 1: no JSON"),
    "escape codes in a key": ("a.jsonl", lines({"\x1b[31mred": 1}), "no column"),
    "csv with a ragged row": ("a.csv", b"text\na\nb,c\n", "row 2: 2 cells"),
    "csv without header": ("a.csv", b"hello\nworld\n", "no header"),
    "csv with a header alone": ("a.csv", b"text\n", "it holds no record"),
    "csv with a column twice": ("a.csv", b"text,text\na,b\n", "twice"),
    "csv with an open quote": ("a.csv", b'text\n"never closed\n', "no CSV"),
    "csv with an empty cell": ("a.csv", b"id,text\n1,\n", "row 1: `text` is empty"),
    "csv with semicolons": ("a.csv", b"id;text\n1;a\n", "no header"),
    "csv of chats": ("a.csv", b"messages\nhi\n", "row 1: `messages` is a string"),
    "parquet cut short": ("a.parquet", HOMES[: len(HOMES) // 2], "no Parquet file"),
    "parquet flipped": ("a.parquet", HOMES[:40] + b"\xff" * 40 + HOMES[80:], "no Parquet file"),
    "parquet that is json": ("a.parquet", lines(A), "no Parquet file"),
    "parquet without rows": ("a.parquet", parquet({"text": []}), "no record"),
    "parquet of others": ("a.parquet", parquet({"body": ["a"]}), "no column"),
    "parquet with a null": ("a.parquet", parquet({"text": ["a", None]}), "row 2: `text` is null"),
    "parquet of numbers": ("a.parquet", parquet({"text": [1]}), "`text` is a number"),
    "parquet of bytes": ("a.parquet", parquet({"text": [b"a"]}), "`text` is bytes"),
    "parquet, not UTF-8": ("a.parquet", parquet({"text": BROKEN_UTF8}), "no Parquet file"),
    "no suffix": ("data", lines(A), "no known format"),
    "another suffix": ("a.pdf", b"%PDF", "no known format"),
    "compressed": ("a.jsonl.gz", gzip.compress(lines(A)), "a compressed file"),
}

# Refused only when the base model's tokenizer has seen it.
TOKENISED: dict[str, tuple[list[str], str, bytes, str]] = {
    "a chat without an assistant": (
        ["train.assistant_only = true"],
        "a.jsonl",
        lines(chat(("user", "a"), ("assistant", "b")), chat(("user", "alone"))),
        "a.jsonl, line 2: no trainable token",
    ),
    "assistant_only on text": (
        ["train.assistant_only = true"],
        "a.jsonl",
        lines(A),
        "train.assistant_only",
    ),
    "prompts as long as a row": (
        [],
        "a.jsonl",
        lines({"prompt": "word " * 100, "completion": "c"}),
        "no record has a trainable token within train.max_length",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_malformed_file_is_refused(
    case: str, model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name, content, told = FILES[case]
    path = tmp_path / name
    path.write_bytes(content)
    assert_refused(capfd, model, ["train", path], told)
    assert_refused(capfd, model, ["train", "--json", model.good, path], told)
    assert_refused(capfd, model, ["train", "--dry-run", path], told)


@pytest.mark.parametrize("case", TOKENISED)
def test_a_file_without_a_trainable_token_is_refused(
    case: str, model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sets, name, content, told = TOKENISED[case]
    path = tmp_path / name
    path.write_bytes(content)
    config = model.root / "mvc.toml"
    config.write_text(set_values(config.read_text(), sets))
    assert_refused(capfd, model, ["train", path], told)
    assert_refused(capfd, model, ["train", "--dry-run", "--json", path], told)


# --- what is no ordinary file ---------------------------------------------------------------------


def _folder(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name.replace("_", ".")).write_bytes(content)
    return path


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.jsonl")
    return folder / "pipe.jsonl"


def _loop(folder: Path) -> Path:
    (folder / "a.jsonl").symlink_to(folder / "b.jsonl")
    (folder / "b.jsonl").symlink_to(folder / "a.jsonl")
    return folder / "a.jsonl"


def _dangling(folder: Path) -> Path:
    (folder / "a.jsonl").symlink_to(folder / "nothing")
    return folder / "a.jsonl"


def _folder_link(folder: Path) -> Path:
    inner = _folder(folder / "inner", a_jsonl=lines(A))
    outer = _folder(folder / "outer", a_jsonl=lines(A))
    (outer / "link").symlink_to(inner)
    return outer


def _dangling_inside(folder: Path) -> Path:
    outer = _folder(folder / "outer", a_jsonl=lines(A))
    (outer / "b.jsonl").symlink_to(folder / "nothing")
    return outer


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda f: f / "no.jsonl", "no such file"),
    "a long name": (lambda f: f / ("x" * 300), "File name too long"),
    "below a file": (lambda f: Path(__file__) / "a.jsonl", "no such file"),
    "a loop of links": (_loop, "no such file"),
    "a link to nothing": (_dangling, "no such file"),
    "a pipe": (_fifo, "neither a file nor a folder"),
    "a device": (lambda f: Path("/dev/zero"), "neither a file nor a folder"),
    "an empty folder": (lambda f: _folder(f / "d"), "without data files"),
    "a folder of hidden files": (lambda f: _folder(f / "d", _a=lines(A)), "without data files"),
    "a folder with another file": (
        lambda f: _folder(f / "d", a_jsonl=lines(A), b_pdf=b""),
        "no known format",
    ),
    "a folder with an empty file": (
        lambda f: _folder(f / "d", a_jsonl=lines(A), b_jsonl=b""),
        "b.jsonl: an empty file",
    ),
    "a folder of two kinds": (
        lambda f: _folder(f / "d", a_jsonl=lines(A), b_jsonl=lines(QA)),
        "b.jsonl, line 1: a prompt_completion record",
    ),
    "a folder with a linked folder": (_folder_link, "a link to a folder"),
    "a folder with a link to nothing": (_dangling_inside, "b.jsonl"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_path_that_is_no_data_is_refused_without_waiting(
    case: str, model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, told = PLACES[case]
    path = make(tmp_path)
    assert_refused(capfd, model, ["train", path], told)
    assert_refused(capfd, model, ["train", "--json", "--dry-run", path], told)


def test_the_repo_itself_is_no_data(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(capfd, model, ["train", "."], "")
    assert_refused(capfd, model, ["train", ""], "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(
    model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(A))
    path.chmod(0)
    assert_refused(capfd, model, ["train", path], "cannot be read")
    folder = _folder(tmp_path / "d", a_jsonl=lines(A))
    folder.chmod(0)
    try:
        assert_refused(capfd, model, ["train", folder], "d")
    finally:
        folder.chmod(0o700)


def test_the_good_file_of_these_tests_is_good(
    model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else every refusal above might have another reason; and a change is seen by `look`.

    It lies in a folder beside the lock of an editor, a link to nothing.
    """
    folder = _folder(tmp_path / "d", a_jsonl=model.good.read_bytes())
    (folder / ".#a.jsonl").symlink_to("ada@example.org")
    before = look(model.root)
    answer = call(capfd, "-C", model.root, "train", folder)
    assert answer.status == 0, answer.err
    after = look(model.root)
    changed = {name for name in before if before[name] != after.get(name)}
    assert {"HEAD", "refs", "current_model/adapter_model.safetensors", "loss.csv"} <= changed
