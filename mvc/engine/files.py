"""Data files: what may be a batch, and what in it may not.

Owns the formats (.jsonl, .json, .parquet, .csv, .txt, .md and folders of them), the columns that a
record may have, and the words in which a bad record is refused: file, line, what was expected.
Nothing is guessed and nothing skipped but blank lines. Knows no tokens (`rows`), loads no torch.
"""

from __future__ import annotations

import csv
import difflib
import errno
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from mvc.errors import DataChanged, DataError, StoreError
from mvc.types import DataFile

RecordKind = Literal["text", "messages", "prompt_completion"]
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".txt", ".md")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z")
_COLUMNS = ("text", "messages", "prompt", "completion")
# TRL would render these into the prompt; dropping them would train on other prompts than meant.
_UNSUPPORTED = ("tools", "chat_template_kwargs")
EXPECTED = "`text`, or `messages`, or `prompt` and `completion`"


class Records(msgspec.Struct, frozen=True):
    """The checked records of a data file, all of one kind.

    A row of `text` is `{"text": str}`; of `messages`, `{"messages": [{"role", "content"}, ...]}`;
    of `prompt_completion`, `{"prompt", "completion"}`, both str or both lists of messages.
    `sources[i]` says where `rows[i]` stands ("name.jsonl, line 3").
    """

    kind: RecordKind
    rows: list[dict[str, Any]]
    sources: list[str]


def identify(path: Path) -> DataFile:
    """The file or folder at `path`, identified by its content alone.

    The md5 of a folder is DVC's: over the JSON list of its files' md5 and relative paths, with
    ".dir" appended, so that it equals the hash under which DVC stores the folder.

    Raises:
        DataError: there is nothing at `path`, or it cannot be read or be a batch.
        StoreError: the disk or the system fails.
    """
    _must_exist(path)
    name = path.name or path.resolve().name
    if path.is_file():
        md5, size = _md5(path)
        return DataFile(path, name, size, md5)
    found = [(file.relative_to(path).as_posix(), *_md5(file)) for file in _data_files(path)]
    listing = [{"md5": md5, "relpath": relpath} for relpath, md5, _ in sorted(found)]
    digest = hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False)
    return DataFile(path, name, sum(size for *_, size in found), digest.hexdigest() + ".dir")


def read(path: Path) -> Records:
    """Read and check every record of a data file, or of a folder's data files in sorted order.

    Raises:
        DataError: what `path` holds cannot be a batch; names file, line or row, and what was
            expected.
        StoreError: the disk or the system fails.
    """
    _must_exist(path)
    folder = path if path.is_dir() else None
    kind: RecordKind | None = None
    first = ""
    rows: list[dict[str, Any]] = []
    sources: list[str] = []
    for file in _data_files(path) if folder else [path]:
        name = file.relative_to(folder).as_posix() if folder else file.name
        count = len(rows)
        for source, raw in _records(file, name):
            row_kind, row = _check(source, raw)
            if kind is None:
                kind, first = row_kind, source
            elif kind != row_kind:
                _refuse(source, f"a {row_kind} record, but {first} is a {kind} record", _ONE_KIND)
            elif rows and type(rows[0].get("prompt")) is not type(row.get("prompt")):
                _refuse(source, f"`prompt` is {_kind_of(row['prompt'])}, unlike {first}", _ONE_KIND)
            rows.append(row)
            sources.append(source)
        if len(rows) == count:
            _refuse(name, "it holds no record", "put at least one record into it, or leave it out")
    if kind is None:
        _refuse(path.name, "a folder without data files", f"its files should be {_known()}")
    return Records(kind, rows, sources)


# --- files --------------------------------------------------------------------------------------

_ONE_KIND = "a batch holds records of one kind; split it into a file for each"


def _refuse(source: str, problem: str, hint: str, cause: Exception | None = None) -> NoReturn:
    raise DataError(f"{source}: {problem}", hint) from cause


def _known() -> str:
    return ", ".join(SUFFIXES[:-1]) + " or " + SUFFIXES[-1]


def _must_exist(path: Path) -> None:
    try:
        if path.is_file() or path.is_dir():
            return
        exists = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        _unreadable(str(path)[:80], error)
    if exists:
        _refuse(str(path), "neither a file nor a folder", f"name a {_known()} file")
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`ls` shows what is there"
    _refuse(str(path), "no such file or folder", hint)


def _data_files(folder: Path) -> list[Path]:
    """All files below `folder` but hidden ones, sorted by their relative path."""
    found = []
    try:
        for path in folder.rglob("*"):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if path.is_symlink() and path.is_dir():
                # rglob does not follow it; what the user put there must not be left out silently.
                _refuse(str(path), "a link to a folder", "put the folder itself there")
            if path.is_file():
                found.append(path)
            elif not path.is_dir():
                _refuse(str(path), "neither a file nor a folder", "leave it out")
    except OSError as error:
        _unreadable(str(folder), error)
    for path in found:
        _suffix(path, path.relative_to(folder).as_posix())
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _suffix(path: Path, name: str) -> str:
    suffix = path.suffix.lower()
    if suffix in _COMPRESSED:
        _refuse(name, "a compressed file", "decompress it first; mvc stores data as it is trained")
    if suffix not in SUFFIXES:
        _refuse(name, f"{suffix or 'no suffix'} is no known format", f"expected {_known()}")
    return suffix


def _md5(path: Path) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            return digest.hexdigest(), file.tell()
    except OSError as error:
        _unreadable(path.name, error)


_ITS_OWN = ("EACCES", "EPERM", "EISDIR", "ENOTDIR", "ELOOP", "EINVAL", "ENAMETOOLONG")


def _unreadable(name: str, error: OSError) -> NoReturn:
    """Refuse what its owner can mend; a disk or a system that fails is no batch's fault."""
    problem, hint = f"cannot be read ({error.strerror or error})", f"`ls -l {name}`"
    if error.errno == errno.ENOENT:
        raise DataChanged(f"{name}: it went away while it was read", hint) from error
    if errno.errorcode.get(error.errno or 0) in _ITS_OWN:
        _refuse(name, problem, hint, error)
    raise StoreError(f"{name}: {problem}", "look at its disk or server: `dmesg | tail`") from error


def _text(path: Path, name: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        _unreadable(name, error)
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        what = "only blank lines" if data else "an empty file"
        _refuse(name, what, "a batch needs at least one record")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        at = f"line {line}, byte {error.start} of the file (0x{data[error.start]:02x})"
        hint = f"convert it: `iconv -f ENCODING -t UTF-8 {name}`"
        _refuse(name, f"not UTF-8: {at}", hint, error)


# --- formats ------------------------------------------------------------------------------------


def _records(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    suffix = _suffix(path, name)
    if suffix == ".parquet":
        return _parquet(path, name)
    text = _text(path, name)
    if suffix == ".csv":
        return _csv(text, name)
    if suffix in (".txt", ".md"):
        return iter([(name, {"text": text})])
    if suffix == ".json":
        return _json(text, name)
    return _json_lines(text, name)


def _json_lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): JSON strings may hold U+2028 and the like.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            source = f"{name}, line {number}"
            yield source, _parse(line, source)


def _parse(text: str, source: str) -> Any:
    hint = 'expected one JSON object a line, like {"text": "..."}'
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}"
        if error.lineno > 1:
            where = f"line {error.lineno}, {where}"
        _refuse(source, f"no JSON: {error.msg} at {where}", hint, error)
    except (ValueError, RecursionError) as error:
        _refuse(source, f"no JSON that can be read: {error}", hint, error)


def _json(text: str, name: str) -> Iterator[tuple[str, Any]]:
    if text.lstrip().startswith("["):
        for number, row in enumerate(_parse(text, name), 1):
            yield f"{name}, item {number}", row
        return
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        yield from _json_lines(text, name)  # which names the line, if it is none of these either
        return
    if isinstance(whole, dict) and ("\n" in text.strip() or isinstance(whole.get("text"), list)):
        hint = "write a list of objects, or one object a line, each a record"
        _refuse(name, "one object (of columns?) where records were expected", hint)
    yield f"{name}, line 1", whole


def _csv(text: str, name: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # a text may be long; the default is 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    hint = "quote what holds commas, quotes or line breaks, as RFC 4180 says"
    number = 0
    header: list[str] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if not set(header) & set(_COLUMNS):
                    seen = ", ".join(header)[:80]
                    _refuse(name, f"no header that names {EXPECTED} (found: {seen})", _HEADER)
                if len(set(header)) < len(header):
                    _refuse(name, "the header names a column twice", _HEADER)
                continue
            number += 1
            source = f"{name}, row {number}"
            if len(cells) != len(header):
                found = f"{len(cells)} cells where the header has {len(header)}"
                _refuse(source, f"{found} (line {reader.line_num})", hint)
            yield source, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        _refuse(f"{name}, line {reader.line_num}", f"no CSV: {error}", hint, error)


_HEADER = "the first line must name the columns, separated by commas"


def _parquet(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = (*_COLUMNS, *_UNSUPPORTED)
    try:
        with pq.ParquetFile(path) as file:
            present = list(file.schema_arrow.names)
            table = file.read(columns=[column for column in wanted if column in present])
            rows = table.to_pylist() if table.num_columns else [{}] * file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            _unreadable(name, error)
        reason = str(error).splitlines()[0]
        hint = "write it again; `python -m pyarrow.parquet` reads what is whole"
        _refuse(name, f"no Parquet file that can be read: {reason}", hint, error)
    if not set(present) & set(_COLUMNS):
        _refuse(name, f"no column {EXPECTED} (found: {', '.join(present)[:80]})", _RENAME)
    for number, row in enumerate(rows, 1):
        yield f"{name}, row {number}", row


_RENAME = "rename the column that holds the data"


# --- records ------------------------------------------------------------------------------------


def _check(source: str, raw: Any) -> tuple[RecordKind, dict[str, Any]]:
    """The kind of a raw record, and the record reduced to the columns that are trained."""
    hint = f"expected an object with {EXPECTED}"
    if not isinstance(raw, dict):
        _refuse(source, f"{_kind_of(raw)} where an object was expected", hint)
    columns = [column for column in _COLUMNS if column in raw]
    for column in _UNSUPPORTED:
        if raw.get(column):
            _refuse(source, f"`{column}` is not supported", f"render it into {EXPECTED}")
    if not columns:
        found = ", ".join(str(key) for key in raw)[:80] or "nothing"
        _refuse(source, f"no column {EXPECTED} (found: {found})", hint)
    if columns == ["text"]:
        return "text", {"text": _string(source, "text", raw["text"])}
    if columns == ["messages"]:
        return "messages", {"messages": _messages(source, "messages", raw["messages"])}
    if columns != ["prompt", "completion"]:
        found = " and ".join(f"`{column}`" for column in columns)
        alone = "alone " if len(columns) == 1 else "together "
        _refuse(source, f"{found} {alone}where one of {EXPECTED} was expected", hint)
    prompt, completion = raw["prompt"], raw["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        checked: dict[str, Any] = {
            "prompt": _messages(source, "prompt", prompt),
            "completion": _messages(source, "completion", completion),
        }
    elif isinstance(prompt, list) or isinstance(completion, list):
        found = f"`prompt` is {_kind_of(prompt)} and `completion` {_kind_of(completion)}"
        _refuse(source, found, "make both strings, or both lists of messages")
    else:
        checked = {
            "prompt": _string(source, "prompt", prompt, empty=True),
            "completion": _string(source, "completion", completion),
        }
    return "prompt_completion", checked


def _kind_of(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", list: "a list", dict: "an object"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _string(source: str, column: str, value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        _refuse(source, f"`{column}` is {_kind_of(value)}", "expected a string")
    if not value and not empty:
        _refuse(source, f"`{column}` is empty", "leave the record out: it has nothing to learn")
    if "\x00" in value:
        _refuse(source, f"`{column}` holds a NUL character", "remove it; is the file binary?")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        problem = f"`{column}` holds half a surrogate pair at character {error.start}"
        _refuse(source, problem, "write the whole character, or none", error)
    return value


def _messages(source: str, column: str, value: Any) -> list[dict[str, str]]:
    hint = 'expected a list of {"role": "user", "content": "..."}'
    if not isinstance(value, list):
        _refuse(source, f"`{column}` is {_kind_of(value)}", hint)
    if not value:
        _refuse(source, f"`{column}` is an empty list", hint)
    checked = []
    for number, message in enumerate(value, 1):
        where = f"message {number} of `{column}`"
        if not isinstance(message, dict):
            _refuse(source, f"{where} is {_kind_of(message)}", hint)
        # Parquet gives every message every key; the absent ones are null.
        keys = {key for key, content in message.items() if content is not None}
        missing, unknown = {"role", "content"} - keys, keys - {"role", "content"}
        if missing:
            _refuse(source, f"{where} has no {' and no '.join(sorted(missing))}", hint)
        if unknown:
            listed = ", ".join(sorted(map(str, unknown)))[:80]
            _refuse(source, f"{where} has unknown keys ({listed})", hint)
        role = _string(source, f"role of {where}".replace("`", ""), message["role"])
        content = message["content"]
        if not isinstance(content, str):
            _refuse(source, f"content of {where} is {_kind_of(content)}", "expected a string")
        label = f"content of {where}".replace("`", "")
        checked.append({"role": role, "content": _string(source, label, content, empty=True)})
    return checked
