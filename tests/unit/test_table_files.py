"""Files of `data_processing`: delimiters, quotes, encodings, ragged rows, and what is no table at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.executors.errors import INPUT_TOO_LARGE
from tests.harness.tables import prepared, refusal


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "name;amount\nAda;1,50\nBob;2,75\n",
            [{"name": "Ada", "amount": "1,50"}, {"name": "Bob", "amount": "2,75"}],
        ),
        ("a\tb,c\n1\t2\n", [{"a": "1", "b,c": "2"}]),
        ("a|b\n1|2\n", [{"a": "1", "b": "2"}]),
        ("\n\na,b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("sep=:\r\na:b\r\n1:2\r\n", [{"a": "1", "b": "2"}]),
        ("a,b\n1,x;y\n2,z;w\n", [{"a": "1", "b": "x;y"}, {"a": "2", "b": "z;w"}]),
        ('"a;b",c\n"1;2",3\n', [{"a;b": "1;2", "c": "3"}]),
        ("a;b\n", []),
        ("only\nx y\n\nz\n", [{"only": "x y"}, {"only": None}, {"only": "z"}]),
        (",a\n0,x\n", [{"": "0", "a": "x"}]),
        ("a,b\r\n1,2\r\n\r\n3,4", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        ("a,b\r1,2\r3,4\r", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        ('a,b\n"1\n2",3\n', [{"a": "1\n2", "b": "3"}]),
        ("*,^b\n1,2\n", [{"*": "1", "^b": "2"}]),
    ],
)
def test_delimiters_are_found_out(tmp_path: Path, source: str, expected: list[dict[str, Any]]) -> None:
    """Comma, semicolon, tab and |; blank lines are no rows, but of a single column they are empty cells."""
    done = prepared(tmp_path, source, output_format="jsonl" if expected else "csv")
    if expected:
        assert expected == done.rows
    else:
        assert "a,b\n" == done.text


@pytest.mark.parametrize(
    ("options", "source", "expected"),
    [
        ({"delimiter": ":"}, "a:b\n1:2\n", [{"a": "1", "b": "2"}]),
        ({"delimiter": ","}, "a;b,c\n1;2,3\n", [{"a;b": "1;2", "c": "3"}]),
        ({"quote": ""}, 'a,b\n5" pipe,"x\n', [{"a": '5" pipe', "b": '"x'}]),
        ({"quote": "'"}, "a,b\n'1,2','it''s'\n", [{"a": "1,2", "b": "it's"}]),
        (
            {"header": False},
            "1,2\n3,4\n",
            [{"column_1": "1", "column_2": "2"}, {"column_1": "3", "column_2": "4"}],
        ),
        (
            {"ragged": "pad"},
            "a,b\n1,2\n3\n4,5,6\n",
            [
                {"a": "1", "b": "2", "column_3": None},
                {"a": "3", "b": None, "column_3": None},
                {"a": "4", "b": "5", "column_3": "6"},
            ],
        ),
    ],
)
def test_the_client_says_the_form(
    tmp_path: Path, options: dict[str, Any], source: str, expected: list[dict[str, Any]]
) -> None:
    """Delimiter, quote, header and the treatment of ragged rows are options."""
    assert expected == prepared(tmp_path, source, csv=options).rows


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "a,b\n1,2\n3\n4,5,6\n",
            "inputs.0: line 3 has 1 cell (no b), the header 2 columns (delimiter ,); quote cells",
        ),
        ("a,b\n1,2\n4,5,6\n", "inputs.0: line 3 has 3 cells, the header 2 columns (delimiter ,)"),
        ('a,b\n"1\n\n2",3\n4\n', "inputs.0: line 5 has 1 cell (no b)"),
        (
            'a,b\n1,2\n"3,4\n5,6\n',
            "inputs.0: line 3: a quoted cell that begins there never ends; if quotes are",
        ),
        ("sep=;\na;b\n1\n", "inputs.0: line 3 has 1 cell (no b), the header 2 columns (delimiter ;)"),
        ("a\n1,2\n", "inputs.0: line 2 has 2 cells, the header 1 column (delimiter ,)"),
        ('a,b\n"1"x,2\n', "inputs.0: line 2: text follows a closing quote; double the quotes"),
        (
            "a,b,a\n1,2,3\n",
            "inputs.0: line 1: two columns are named a; rename one, or set csv.header to false",
        ),
        ("", "inputs.0: the file is empty"),
        ("\n\r\n", "inputs.0: the file has no rows"),
        ("a,^.*$\n1,2\n", "inputs: a column named ^.*$ can't be used; rename it"),
        ("\ufeff", "inputs.0: the file has no rows"),
        ("sep=;\n", "inputs.0: the file has no rows"),
    ],
)
def test_faults_have_a_line_and_a_remedy(tmp_path: Path, source: str, expected: str) -> None:
    """Ragged rows, broken quotes and equal names are refused, and the refusal says what to try."""
    detail = refusal(tmp_path, source)
    assert detail.startswith(expected), detail


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"PAR1xxxx", "is a parquet file; set input_format to parquet"),
        (b"PK\x03\x04xxxx", "is a ZIP archive or an Excel workbook; save the sheet as csv"),
        (b"\xd0\xcf\x11\xe0xxxx", "is an Excel workbook; save the sheet as csv"),
        (b"\x28\xb5\x2f\xfdxxxx", "is packed with zstd; send it plain or as gzip"),
        (b'{"a": 1}\n{"a": 2}\n', "is JSON; write each row as {"),
        (b'\n [{"a": 1},\n', "is JSON; write each row as {"),
        (b"{\n", "is JSON; write each row as {"),
        (b"<!DOCTYPE html><html>", "is a web page, no table; is the URL right?"),
        ("a,b\n1,2\n".encode("utf-16-le"), "has NUL bytes; if it is text, give its encoding"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    """A file of another kind is no table, and the refusal names the kind."""
    assert refusal(tmp_path, content).startswith(f"inputs.0: {expected}")


TEXT = "name,ort\nZoë,Köln €\n"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "auto"),
        ("utf-8-sig", "auto"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "auto"),
        ("utf-32", "auto"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "UTF_16BE"),
        ("cp1252", "cp1252"),
        ("iso-8859-15", "l9"),
        ("mac-roman", "mac-roman"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, said: str) -> None:
    """A byte order mark is believed, any of Python's encodings may be given, and outputs are UTF-8."""
    done = prepared(tmp_path, TEXT.encode(encoding), encoding=said, output_format="csv")
    assert (TEXT, []) == (done.text, done.notes)


def test_a_guessed_encoding_is_told(tmp_path: Path) -> None:
    """A table that is not UTF-8 is read as cp1252 with a warning, and jsonl, which is UTF-8, is refused."""
    done = prepared(tmp_path, TEXT.encode("cp1252"), output_format="csv")
    assert TEXT == done.text
    assert [
        "inputs.0: is not UTF-8 and was read as cp1252; if that is wrong, give its encoding"
    ] == done.notes
    for content, kind in ((b"a,b\n1,2\n\xe9\x81,3\n", "csv"), (b'{"v": 1}\n\n{"v": "\xe9"}\n', "jsonl")):
        detail = refusal(tmp_path, content, input_format=kind)
        assert (
            "inputs.0: line 3: not utf-8; give the file's encoding, such as cp1252, iso-8859-15 or utf-16"
            == detail
        )
    assert "line 2: not ascii" in refusal(tmp_path, TEXT, encoding="ascii")
    for unknown in ("klingon", "rot13", "base64", "idna", "unicode_escape"):
        assert refusal(tmp_path, TEXT, encoding=unknown).startswith("encoding: unknown; try utf-8")


def test_columns_of_several_files_meet_by_name(tmp_path: Path) -> None:
    """Another order is no matter; a missing column is named."""
    assert [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}] == prepared(
        tmp_path, ["a,b\n1,2\n", "b;a\n4;3\n"]
    ).rows
    differ = "inputs.1: its columns differ from those of the first: it"
    assert f"{differ} has besides c" == refusal(tmp_path, ["a,b\n1,2\n", "a,b,c\n1,2,3\n"])
    assert f"{differ} lacks b" == refusal(tmp_path, ["a,b\n1,2\n", "a\n1\n"])


def test_columns_of_any_script(tmp_path: Path) -> None:
    """A name is as the file has it, also in steps and types."""
    source = "Straße,Preis (€),2024,*\nx,1,2,3\n"
    done = prepared(
        tmp_path,
        source,
        {"step": "select", "columns": ["2024", "*", "Preis (€)"]},
        types={"Preis (€)": "integer", "2024": "number"},
    )
    assert [{"2024": 2.0, "*": "3", "Preis (€)": 1}] == done.rows


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"step": "select", "columns": ["x"]}, "steps.0: no column x; the columns are k, v"),
        (
            {"step": "scale", "columns": ["v"]},
            "steps.0: v is not a column of numbers; give it the type number in types",
        ),
        ({"step": "fill_missing", "columns": ["v"], "with": "mean"}, "steps.0: v is not a column of numbers"),
        ({"step": "one_hot", "columns": ["zz"]}, "steps.0: no column zz; the columns are k, v"),
    ],
)
def test_steps_that_do_not_fit_say_why(tmp_path: Path, step: dict[str, Any], expected: str) -> None:
    """Numbers need a type, and a missing column is answered with those that are there."""
    assert refusal(tmp_path, "k,v\na,1\n", step).startswith(expected)


def test_constants_fit_their_column(tmp_path: Path) -> None:
    """A constant becomes text in a column of text; one that is no number does not fit numbers."""
    fill = {"step": "fill_missing", "columns": ["v"], "with": "constant", "value": 7}
    assert ["7", "1"] == [row["v"] for row in prepared(tmp_path, "k,v\na,\nb,1\n", fill).rows]
    assert [7, 1] == [row["v"] for row in prepared(tmp_path, "k,v\na,\nb,1\n", fill, types="infer").rows]
    for value in ("x", 1.5):
        detail = refusal(tmp_path, "k,v\na,\nb,1\n", {**fill, "value": value}, types="infer")
        assert detail.startswith("steps.0: value does not fit v")


def test_tables_without_rows(tmp_path: Path) -> None:
    """A header alone is a table without rows; jsonl can't hold that, which is said."""
    assert "a,b\n" == prepared(tmp_path, "a,b\n", output_format="csv").text
    assert prepared(tmp_path, "a,b\n", output_format="parquet").files["dataset"].startswith(b"PAR1")
    detail = refusal(tmp_path, "a,b\n")
    assert "output_format: no row is left, and jsonl without rows is no file; choose csv or parquet" == detail


def test_wide_cells_and_rows_are_bounded(tmp_path: Path) -> None:
    """A cell of ten megabytes goes through; a row of millions of cells, or a longer line, is refused."""
    wide = "x" * 10_000_000
    assert f"a,b\n1,{wide}\n" == prepared(tmp_path, f"a,b\n1,{wide}\n", output_format="csv").text
    assert "line 2 has 500001 cells" in refusal(tmp_path, "a,b\n" + "," * 500_000 + "\n")
    assert "more than 10000 columns" in refusal(tmp_path, "," * 500_000 + "\n", code=INPUT_TOO_LARGE)
    longest = "a,b\n1," + "x" * (33 * 2**20)
    assert "line 2 has more than 33554432 characters" in refusal(tmp_path, longest, code=INPUT_TOO_LARGE)
