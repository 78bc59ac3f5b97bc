"""Values of `data_processing` go through as they are; types and missing cells are the client's to say."""

from __future__ import annotations

import csv
import gzip
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.harness.tables import prepared, refusal

TRICKY = [
    *(
        "02134",
        "007",
        "0012345678905",
        "NA",
        "null",
        "None",
        "NaN",
        "nan",
        "+1",
        "1e5",
        "0x10",
        "1_000",
        "-0",
    ),
    *("1.50", "1,50", "9007199254740993", "18446744073709551616", "0.1234567890123456789", "1e400", "inf"),
    *(
        "2024-02-30",
        "2024-01-01",
        "01/02/2024",
        "12:30",
        "true",
        "TRUE",
        "yes",
        "NO",
        "t",
        "=1+1",
        "@x",
        "''",
    ),
    *(
        " left",
        "right ",
        "  ",
        "\t",
        "a,b",
        "a;b",
        'say "hi"',
        '"',
        "two\nlines",
        "two\r\nlines",
        "ß𝄞é",
        "\u00a0",
    ),
    *("[1, 2]", '{"a":1}', "\\N", "#N/A", "-", "."),
]


def table(rows: list[list[str]], **options: Any) -> str:
    file = StringIO()
    csv.writer(file, **options).writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("output_format", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("lineterminator", ["\r\n", "\n"])
def test_every_cell_of_csv_is_text_as_it_is(
    tmp_path: Path, output_format: str, quoting: Any, lineterminator: str
) -> None:
    """Zeros, signs, words for nothing, dates, spaces, quotes and ends of lines are not interpreted."""
    source = table(
        [["n", "v"], *([str(n), v] for n, v in enumerate(TRICKY))],
        quoting=quoting,
        lineterminator=lineterminator,
    )
    done = prepared(tmp_path, source, output_format=output_format)
    content = done.files["dataset"]
    if output_format == "csv":
        found = [row["v"] for row in csv.DictReader(StringIO(content.decode(), newline=""))]
    else:
        found = (
            [row["v"] for row in done.rows]
            if output_format == "jsonl"
            else pl.read_parquet(BytesIO(content))["v"].to_list()
        )
    assert TRICKY == found
    assert ({"n": "text", "v": "text"}, []) == (done.types, done.notes)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (None, ["a", None, "NA", None]),
        ([], ["a", "", "NA", ""]),
        (["NA"], ["a", "", None, ""]),
        (["", "NA"], ["a", None, None, None]),
    ],
)
def test_the_client_says_what_is_missing(
    tmp_path: Path, missing: list[str] | None, expected: list[str | None]
) -> None:
    """By default the empty cell alone; a list replaces that."""
    more = {} if missing is None else {"missing": missing}
    done = prepared(tmp_path, 'n,v\n1,a\n2,\n3,NA\n4,""\n', {"step": "select", "columns": ["v"]}, **more)
    assert expected == [row["v"] for row in done.rows]
    assert expected.count(None) == done.answer["columns"][0]["missing"]


def test_types_by_column(tmp_path: Path) -> None:
    """Named columns get their types, the others stay text."""
    source = (
        "zip,n,x,b,d,t\n"
        "02134,+7,1e5,yes,2024-02-29,2024-01-01T12:00:00+02:00\n"
        "00501, 8 ,-.5,FALSE,1999-12-31,2024-01-01\n"
    )
    types = {"n": "integer", "x": "number", "b": "boolean", "d": "date", "t": "timestamp"}
    done = prepared(tmp_path, source, types=types)
    assert [
        {"zip": "02134", "n": 7, "x": 1e5, "b": True, "d": "2024-02-29", "t": "2024-01-01T10:00:00+00:00"},
        {"zip": "00501", "n": 8, "x": -0.5, "b": False, "d": "1999-12-31", "t": "2024-01-01T00:00:00+00:00"},
    ] == done.rows
    assert types | {"zip": "text"} == done.types


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "", "-20"], "integer"),
        (["1", "007"], "text"),
        (["1", "+7"], "text"),
        (["9223372036854775807"], "integer"),
        (["9223372036854775808"], "text"),
        (["1", "1.5"], "number"),
        (["1.5e3"], "number"),
        (["0.1234567890123456789"], "text"),
        (["01.5"], "text"),
        (["1,5"], "text"),
        (["true", "False"], "boolean"),
        (["yes"], "text"),
        (["2024-02-29", ""], "date"),
        (["2024-02-30"], "text"),
        (["2024-02-29T10:00Z", "2024-02-29 10:00:01.5"], "timestamp"),
        (["NA", "1"], "text"),
        (["0x10"], "text"),
        (["nan"], "text"),
        ([""], "text"),
    ],
)
def test_infer_takes_a_type_only_if_every_cell_has_it(
    tmp_path: Path, cells: list[str], expected: str
) -> None:
    """A column with one cell that would lose something stays text."""
    source = table([["k", "v"], *([str(n), cell] for n, cell in enumerate(cells))])
    done = prepared(tmp_path, source, types="infer")
    assert expected == done.types["v"]
    if expected == "text":
        assert [cell or None for cell in cells] == [row["v"] for row in done.rows]


@pytest.mark.parametrize(
    ("to", "cell"),
    [
        *(("integer", cell) for cell in ("x", "1.0", "9223372036854775808", "0x10", "1 000", "1e3")),
        *(("number", cell) for cell in ("x", "NaN", "inf", "1e999", "1,5", "0x10", "--1")),
        *(("boolean", cell) for cell in ("maybe", "2", "t")),
        *(("date", cell) for cell in ("2024-02-30", "01/02/2024", "2024-1-1", "20240101")),
        *(("timestamp", cell) for cell in ("2024-01-01T25:00", "now", "12:00")),
    ],
)
def test_a_cell_that_does_not_fit_its_type_is_named(tmp_path: Path, to: str, cell: str) -> None:
    """By its file, line and column; a cell before it that spans lines counts as such; no value is told."""
    source = table([["a b", "v"], ["two\nlines", ""], ["x", cell]])
    detail = refusal(tmp_path, ["a b,v\nx,\n", source], types={"v": to})
    assert detail.startswith("inputs.1: line 4, column v: not "), detail
    assert detail.endswith("; correct the cell, add its text to missing, or leave the column text")
    assert [None, None, None] == [
        row["v"]
        for row in prepared(tmp_path, ["a b,v\nx,\n", source], types={"v": to}, missing=["", cell]).rows
    ]
    cast = {"step": "cast", "columns": ["v"], "to": to}
    assert refusal(tmp_path, source, cast).startswith("steps.0: row 2, column v: not ")
    assert [None, None] == [row["v"] for row in prepared(tmp_path, source, {**cast, "on_error": "null"}).rows]


def test_decimal_commas(tmp_path: Path) -> None:
    """1,50 is a number where the client says so; a point for thousands is refused, not guessed."""
    source, comma = "v;w\n1,50;x\n-2;y\n", {"decimal_comma": True}
    assert [1.5, -2.0] == [
        row["v"] for row in prepared(tmp_path, source, types={"v": "number"}, csv=comma).rows
    ]
    assert [1.5, -2.0] == [row["v"] for row in prepared(tmp_path, source, types="infer", csv=comma).rows]
    cast = {"step": "cast", "columns": ["v"], "to": "number"}
    assert [1.5, -2.0] == [row["v"] for row in prepared(tmp_path, source, cast, csv=comma).rows]
    assert "line 2, column v: not a number" in refusal(tmp_path, source, types={"v": "number"})
    assert "line 2, column v: not a number" in refusal(
        tmp_path, "v;w\n1.234,50;x\n", types={"v": "number"}, csv=comma
    )


JSON = [
    '{"i": 9007199254740993, "big": 18446744073709551616, "f": 0.1, "long": 0.1234567890123456789}',
    '{"i": -9223372036854775808, "big": 1, "f": 1e22, "long": 2.50}',
]


def test_numbers_of_json_keep_their_digits(tmp_path: Path) -> None:
    """Beyond 53 and 64 bits, and with more digits than a float has; such columns are not computed with."""
    done = prepared(tmp_path, "\n".join(JSON), input_format="jsonl")
    assert (
        '{"i":9007199254740993,"big":18446744073709551616,"f":0.1,"long":0.1234567890123456789}\n'
        '{"i":-9223372036854775808,"big":1,"f":1e22,"long":2.50}\n'
    ) == done.text.replace("1e+22", "1e22")
    assert {"i": "integer", "big": "other", "f": "number", "long": "other"} == done.types
    assert 2 == len(done.notes)
    as_csv = prepared(tmp_path, "\n".join(JSON), input_format="jsonl", output_format="csv").text
    assert "9007199254740993,18446744073709551616,0.1,0.1234567890123456789" == as_csv.splitlines()[1]
    scale = {"step": "scale", "columns": ["big"]}
    assert "big is not a column of numbers" in refusal(tmp_path, JSON[0], scale, input_format="jsonl")
    numbers = prepared(tmp_path, JSON[0], scale, input_format="jsonl", types={"big": "number"})
    assert {"big": 0.0}.items() <= numbers.rows[0].items()


def test_json_values_keep_their_form(tmp_path: Path) -> None:
    """Texts are no numbers, null is missing, nested values keep members and digits, also in CSV."""
    lines = [
        '{"t": "007", "n": null, "b": true, "o": {"z": [1, 2.50, "ü\\n"], "a": null}, "e": ""}',
        '{"t": "NA", "n": null, "b": false, "o": [], "more": 1}',
    ]
    done = prepared(tmp_path, "\n\n".join(lines) + "\n", input_format="jsonl")
    first, second = done.rows
    assert {
        "t": "007",
        "n": None,
        "b": True,
        "o": {"z": [1, 2.5, "ü\n"], "a": None},
        "e": "",
        "more": None,
    } == first
    assert {"t": "NA", "n": None, "b": False, "o": [], "e": None, "more": 1} == second
    assert '"o":{"z":[1,2.50,"ü\\n"],"a":null}' in done.text
    rows = list(
        csv.DictReader(
            StringIO(prepared(tmp_path, "\n".join(lines), input_format="jsonl", output_format="csv").text)
        )
    )
    assert ['{"z":[1,2.50,"ü\\n"],"a":null}', "[]"] == [row["o"] for row in rows]


def test_nested_json_becomes_nested_parquet(tmp_path: Path) -> None:
    """Lists and objects of one form have types there; mixed ones stay text, which is told."""
    lines = '{"v": [1.5, 2.0], "o": {"a": 1}, "m": [1]}\n{"v": [], "o": {"a": 2}, "m": {"x": 1}}\n'
    done = prepared(tmp_path, lines, input_format="jsonl", output_format="parquet")
    made = pl.read_parquet(BytesIO(done.files["dataset"]))
    assert {"v": [[1.5, 2.0], []], "o": [{"a": 1}, {"a": 2}], "m": ["[1]", '{"x":1}']} == made.to_dict(
        as_series=False
    )
    assert ["m: kept as JSON text, as its values fit no type of parquet without loss"] == done.notes
    again = prepared(tmp_path, done.files["dataset"], input_format="parquet", output_format="csv")
    assert ["[1.5,2.0]", "[]"] == [row["v"] for row in csv.DictReader(StringIO(again.text))]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            '{"v": 1}\n{"v": "a"}',
            "inputs.0: line 2, column v: text, but integer at inputs.0: line 1; give the column",
        ),
        ('{"v": 1}\n{"v": 1, "v": 2}', "inputs.0: line 2: the key v is there twice"),
        ('{"v": {"a": 1, "a": 2}}', "inputs.0: line 1: the key a is there twice"),
        ('{"v": NaN}', "inputs.0: line 1: NaN is no number of JSON; write null, or a text"),
        ('{"v": [Infinity]}', "inputs.0: line 1: Infinity is no number of JSON"),
        ('{"v": 1}\n{"v": 1, "w": "abc', "inputs.0: line 2: not JSON: the line ends early; is the file cut?"),
        ('{"v": 1}\n{"v": ', "inputs.0: line 2: not JSON: the line ends early; is the file cut?"),
        ('{"v": 01}', "inputs.0: line 1: not JSON: "),
        ('[{"v": 1}]', "inputs.0: line 1: a JSON array; write each of its objects on a line of its own"),
        ('[\n{"v": 1}\n]', "inputs.0: line 1: not JSON"),
        ("7", "inputs.0: line 1: not an object"),
        ('{"v": "\\ud800"}', "inputs.0: line 1: a text has half of a surrogate pair"),
        ("{}", "inputs: no object has a member"),
        ("\n\n", "inputs.0: the file has no rows"),
        ("[" * 100_000, "inputs.0: line 1: values are nested too deeply"),
    ],
)
def test_json_that_is_no_table(tmp_path: Path, lines: str, expected: str) -> None:
    """Each fault has its line and says what to do."""
    assert refusal(tmp_path, lines, input_format="jsonl").startswith(expected)


def test_mixed_json_as_text(tmp_path: Path) -> None:
    """A column of texts and numbers is text where the client says so, each cell as it was written."""
    lines = '{"v": 1.50}\n{"v": "a"}\n{"v": true}\n{"v": [1]}\n{"v": null}\n'
    for types in ("text", {"v": "text"}):
        done = prepared(tmp_path, lines, {"step": "drop_missing"}, input_format="jsonl", types=types)
        assert ["1.50", "a", "true", "[1]"] == [row["v"] for row in done.rows]


def test_parquet_keeps_its_types_and_its_digits(tmp_path: Path) -> None:
    """Wide integers, decimals and texts with zeros; a NaN has no JSON and becomes null, which is told."""
    frame = pl.DataFrame({"u": pl.Series([2**64 - 1], dtype=pl.UInt64), "z": ["007"], "f": [float("nan")]})
    file = BytesIO()
    frame.with_columns(d=pl.Series(["1.10"]).cast(pl.Decimal(30, 2))).write_parquet(file)
    done = prepared(tmp_path, file.getvalue(), input_format="parquet")
    assert '{"u":18446744073709551615,"z":"007","f":null,"d":"1.10"}\n' == done.text
    assert ["f: 1 values (NaN, infinity) became null, as JSON has none of them"] == done.notes
    as_csv = prepared(tmp_path, file.getvalue(), input_format="parquet", output_format="csv").text
    assert "u,z,f,d\n18446744073709551615,007,NaN,1.10\n" == as_csv


def test_packed_tables(tmp_path: Path) -> None:
    """CSV and jsonl may be gzip; a cut or damaged one is refused."""
    packed = gzip.compress(b"a,b\n007,2\n" * 1000)
    packed_rows = gzip.compress(b'{"a": 1}\n')
    assert "007" == prepared(tmp_path, packed).rows[0]["a"]
    assert [{"a": 1}] == prepared(tmp_path, packed_rows, input_format="jsonl").rows
    assert "inputs.0: the gzip file ends early; send it again" == refusal(
        tmp_path, packed[: len(packed) // 2]
    )
    damaged = packed[:-6] + b"\0\0" + packed[-4:]
    assert "inputs.0: the gzip file is damaged; send it again" == refusal(tmp_path, damaged)


def test_parquet_that_is_cut(tmp_path: Path) -> None:
    """The end of a parquet file says what it holds: without it there is no table."""
    file = BytesIO()
    pl.DataFrame({"a": list(range(1000))}).write_parquet(file)
    content = file.getvalue()
    for length in (20, len(content) // 2, len(content) - 1):
        detail = refusal(tmp_path, content[:length], input_format="parquet")
        assert "inputs.0: the parquet file ends early; send it again" == detail
    footer = int.from_bytes(content[-8:-4], "little")
    broken = content[: -8 - footer] + bytes(footer) + content[-8:]
    assert "inputs.0: the parquet file is damaged; write it anew" == refusal(
        tmp_path, broken, input_format="parquet"
    )
    assert "is not a parquet file" in refusal(tmp_path, "a,b\n1,2\n", input_format="parquet")
