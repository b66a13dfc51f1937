"""Data files: formats, identity, and every refusal with its line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from mvc.engine import files
from mvc.errors import DataChanged, DataError, MvcError, StoreError

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl_counts_blank_lines_and_reads_every_character(tmp_path: Path) -> None:
    text = '\ufeff{"text": "a\u2028b", "id": 1}\r\n\n  \n{"id": NaN, "text": "é"}'
    records = files.read(write(tmp_path / "d.jsonl", text))
    assert records.kind == "text"
    assert records.rows == [{"text": "a\u2028b"}, {"text": "é"}]
    assert records.sources == ["d.jsonl, line 1", "d.jsonl, line 4"]


def test_kinds(tmp_path: Path) -> None:
    chat = files.read(write(tmp_path / "c.jsonl", json.dumps({"messages": TURNS})))
    assert (chat.kind, chat.rows) == ("messages", [{"messages": TURNS}])
    pairs = [{"prompt": "", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    flat = files.read(write(tmp_path / "p.json", json.dumps(pairs, indent=1)))
    assert (flat.kind, flat.rows) == ("prompt_completion", pairs)
    assert flat.sources[1] == "p.json, item 2"
    turns = {"prompt": TURNS[:1], "completion": TURNS[1:]}
    assert files.read(write(tmp_path / "q.json", json.dumps(turns))).rows == [turns]


def test_csv_text_and_folder(tmp_path: Path) -> None:
    write(tmp_path / "in/b.csv", 'n,text\n1,"two\nlines, one"\n\n2,three\n')
    write(tmp_path / "in/a/z.md", "# whole\nfile")
    write(tmp_path / "in/.hidden.bin", b"\0")
    records = files.read(tmp_path / "in")
    assert [row["text"] for row in records.rows] == ["# whole\nfile", "two\nlines, one", "three"]
    assert records.sources == ["a/z.md", "b.csv, row 1", "b.csv, row 2"]


def test_long_csv_cell(tmp_path: Path) -> None:
    assert len(files.read(write(tmp_path / "l.csv", "text\n" + "x" * 200_000)).rows[0]["text"])


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [*TURNS, {"role": "user", "content": "x", "name": None}], "n": 1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    records = files.read(tmp_path / "c.parquet")
    assert records.rows[0]["messages"] == [*TURNS, {"role": "user", "content": "x"}]
    assert records.sources == ["c.parquet, row 1"]
    damaged = (tmp_path / "c.parquet").read_bytes()[:-20]
    with pytest.raises(DataError, match=r"d\.parquet: no Parquet file"):
        files.read(write(tmp_path / "d.parquet", damaged))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet: no column .*found: a"):
        files.read(tmp_path / "e.parquet")
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "n.parquet")
    with pytest.raises(DataError, match=r"n\.parquet, row 2: `text` is null"):
        files.read(tmp_path / "n.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "z.parquet")
    with pytest.raises(DataError, match=r"z\.parquet: it holds no record"):
        files.read(tmp_path / "z.parquet")


GOOD = '{"text": "good"}\n'
CHAT = '{"messages": %s}'
BAD = {
    "empty.jsonl": ("", "an empty file"),
    "blank.jsonl": ("\n \n", "only blank lines"),
    "bom.jsonl": (b"\xef\xbb\xbf", "an empty file"),
    "syntax.jsonl": (GOOD + "\n{text: 1}", "line 3: no JSON: .* at column 2"),
    "array.jsonl": (GOOD + "[1]", "line 2: a list where an object"),
    "number.jsonl": ("3", "line 1: a number where an object"),
    "deep.jsonl": ('{"text": ' + "[" * 100_000, "line 1: no JSON that can be read"),
    "bigint.jsonl": ('{"n": ' + "9" * 5000 + "}", "line 1: no JSON that can be read"),
    "latin.jsonl": (GOOD.encode() + b'{"text": "\xe9"}', r"line 2, byte 27 of the file \(0xe9\)"),
    "utf16.jsonl": (GOOD.encode("utf-16"), "not UTF-8: line 1, byte 0"),
    "nul.jsonl": ('{"text": "a\\u0000"}', "line 1: `text` holds a NUL"),
    "half.jsonl": ('{"text": "a\\ud800"}', "line 1: `text` holds half a surrogate"),
    "null.jsonl": ('{"text": null}', "line 1: `text` is null"),
    "type.jsonl": ('{"text": 3}', "line 1: `text` is a number"),
    "none.jsonl": ('{"content": "x"}', r"line 1: no column .*found: content"),
    "nothing.jsonl": (GOOD + '{"text": ""}', "line 2: `text` is empty"),
    "both.jsonl": ('{"text": "x", "messages": []}', "`text` and `messages` together"),
    "half2.jsonl": ('{"prompt": "x"}', "`prompt` alone"),
    "mixed.jsonl": (GOOD + '{"prompt": "a", "completion": "b"}', "line 2: a prompt_completion"),
    "pair.jsonl": ('{"prompt": "a", "completion": []}', "is a string and `completion` a list"),
    "nocomp.jsonl": ('{"prompt": "a", "completion": ""}', "`completion` is empty"),
    "tools.jsonl": ('{"text": "a", "tools": [{}]}', "`tools` is not supported"),
    "msgs.jsonl": (CHAT % "[]", "`messages` is an empty list"),
    "msgstr.jsonl": (CHAT % '"x"', "`messages` is a string"),
    "msgitem.jsonl": (CHAT % '["x"]', "message 1 of `messages` is a string"),
    "norole.jsonl": (CHAT % '[{"content": "x"}]', "message 1 of `messages` has no role"),
    "key.jsonl": (CHAT % '[{"role": "u", "content": "x", "k": 1}]', r"unknown keys \(k\)"),
    "parts.jsonl": (CHAT % '[{"role": "u", "content": []}]', "content of .* is a list"),
    "cols.json": ('{"text": ["a", "b"]}', "one object"),
    "one.json": ('{\n"text": "a"\n}', "one object"),
    "list.json": ('[{"text": "a"}, 3]', "item 2: a number"),
    "broken.json": ('[{"text": "a"},\n 3', "no JSON: .* at line 2, column 3"),
    "nolist.json": ("[]", "it holds no record"),
    "nohead.csv": ("some words\nmore", "no header that names"),
    "ragged.csv": ("text,n\na,1\nb\n", r"row 2: 1 cells where the header has 2 \(line 3\)"),
    "quote.csv": ('text\n"a"b\n', "line 2: no CSV"),
    "twice.csv": ("text,text\na,b\n", "names a column twice"),
    "onlyhead.csv": ("text\n", "it holds no record"),
    "messages.csv": ("messages\nx\n", "row 1: `messages` is a string"),
    "nul.txt": (b"a\x00b", "holds a NUL"),
    "blank.md": (" \n", "only blank lines"),
    "d.jsonl.gz": (b"\x1f\x8b", "a compressed file"),
    "d.bin": (b"x", "bin is no known format"),
    "noformat": ("x", "no suffix is no known format"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, name: str) -> None:
    content, problem = BAD[name]
    with pytest.raises(DataError, match=problem) as caught:
        files.read(write(tmp_path / name, content))
    assert caught.value.message.startswith(name)
    assert caught.value.hint


def test_prompts_of_two_forms(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": TURNS[:1], "completion": TURNS[1:]}]
    with pytest.raises(DataError, match="line 2: `prompt` is a list, unlike f"):
        files.read(write(tmp_path / "f.jsonl", "\n".join(map(json.dumps, rows))))


def test_refused_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: a folder without data files"):
        files.read(tmp_path / "empty")
    write(tmp_path / "odd/a.jsonl", GOOD)
    write(tmp_path / "odd/b.gz", b"x")
    with pytest.raises(DataError, match=r"b\.gz: a compressed file"):
        files.identify(tmp_path / "odd")
    (tmp_path / "odd/b.gz").unlink()
    (tmp_path / "odd/link").symlink_to(tmp_path / "empty")
    with pytest.raises(DataError, match="a link to a folder"):
        files.read(tmp_path / "odd")
    write(tmp_path / "two/a.jsonl", GOOD)
    write(tmp_path / "two/b/c.jsonl", CHAT % json.dumps(TURNS))
    with pytest.raises(DataError, match=r"b/c\.jsonl, line 1: a messages record, but a\.jsonl"):
        files.read(tmp_path / "two")


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "monday.jsonl", GOOD)
    for call in (files.read, files.identify):
        with pytest.raises(DataError, match="no such file") as caught:
            call(tmp_path / "mondy.jsonl")
        assert "monday.jsonl" in caught.value.hint
    with pytest.raises(DataError, match="neither a file nor a folder"):
        files.identify(Path("/dev/null"))


def test_identity_is_the_content(tmp_path: Path) -> None:
    one = files.identify(write(tmp_path / "a.jsonl", GOOD))
    two = files.identify(write(tmp_path / "b.jsonl", GOOD))
    assert one.md5 == two.md5 == hashlib.md5(GOOD.encode()).hexdigest()
    assert (one.name, one.size_bytes) == ("a.jsonl", len(GOOD))


def test_a_folder_has_the_hash_that_dvc_gives_it(tmp_path: Path) -> None:
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db.local import LocalHashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    write(tmp_path / "d/b.jsonl", GOOD)
    write(tmp_path / "d/a/é.txt", "x")
    write(tmp_path / "d/a.txt", "y")
    filesystem = LocalFileSystem()
    database = LocalHashFileDB(filesystem, str(tmp_path / "odb"))
    _, _, tree = build(database, str(tmp_path / "d"), filesystem, "md5", dry_run=True)
    found = files.identify(tmp_path / "d")
    assert found.md5 == tree.hash_info.value
    assert found.size_bytes == len(GOOD) + 2


def test_reading_loads_no_torch(tmp_path: Path) -> None:
    import subprocess

    path = write(tmp_path / "a.jsonl", GOOD)
    code = (
        "import sys; from pathlib import Path; from mvc.engine import files;"
        "files.read(Path(sys.argv[1]));"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EIO, StoreError),
        (errno.ESTALE, StoreError),
        (errno.EMFILE, StoreError),
        (errno.EACCES, DataError),
        (errno.ENOENT, DataChanged),
    ],
)
def test_only_what_its_owner_can_mend_is_the_file_s_fault(
    code: int, kind: type[MvcError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "abc"}')
    table = tmp_path / "a.parquet"
    table.write_bytes(b"PAR1")

    def fail(*args: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", fail)
    for act in (lambda: files.identify(path), lambda: files.read(path), lambda: files.read(table)):
        with pytest.raises(kind) as caught:
            act()
        assert type(caught.value) is kind
        assert "a." in caught.value.message
