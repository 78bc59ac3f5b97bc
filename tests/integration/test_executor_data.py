"""`data_processing` with the real Polars: each step, and files that should not be believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from coordinator.miner.executors.data import executor
from coordinator.miner.executors.data.executor import DataExecutor
from coordinator.miner.executors.data.text import first_of_similar
from coordinator.miner.executors.errors import (
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    RESOURCE_LIMIT,
    UNSUPPORTED,
)
from tests.harness.tables import prepared, refusal
from tests.harness.works import Bench, FolderBlobs, check_output, failure

PEOPLE = """\
name,age,income,city,joined
Ann,30,1000,Bern,2024-01-01
Bob,,2000,Basel,2024-01-02
Ann,30,1000,Bern,2024-01-01
Cid,50,,Bern,
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("data_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


async def test_a_dataset_through_the_child(bench: Bench) -> None:
    """Two files become three parquet files, with what was done told step by step."""
    refs = [bench.blobs.add(PEOPLE.encode()), bench.blobs.add(PEOPLE.replace("Ann", "Eve").encode())]
    steps = [
        {"step": "drop_duplicates"},
        {"step": "fill_missing", "columns": ["age"], "with": "median"},
        {"step": "scale", "columns": ["age"]},
        {"step": "one_hot", "columns": ["city"]},
    ]
    split = {"train": 0.5, "validation": 0.5, "test": 0}
    work = bench.work({"inputs": refs, "steps": steps, "split": split, "seed": 5, "types": "infer"})
    outcome = check_output("data_processing", await DataExecutor().run(work))
    result = outcome.result
    assert (8, 4) == (result["rows_read"], result["rows_written"])
    assert [4, 4, 4, 4] == [step["rows"] for step in result["steps"]]
    assert ["train.parquet", "validation.parquet"] == [output["name"] for output in result["outputs"]]
    tables = [pl.read_parquet(BytesIO(bench.blobs.read(output))) for output in result["outputs"]]
    assert ["Ann", "Bob", "Cid", "Eve"] == sorted(pl.concat(tables)["name"].to_list())
    assert ["name", "age", "income", "joined", "city_Basel", "city_Bern"] == tables[0].columns
    types = {column["name"]: (column["type"], column["missing"]) for column in result["columns"]}
    assert (("number", 0), ("date", 1), ("integer", 0)) == (
        types["age"],
        types["joined"],
        types["city_Bern"],
    )
    assert bench.progress[-1][0] < 1


async def test_without_steps_files_are_converted(bench: Bench) -> None:
    """They are read, put together and written in the other format; every cell is as it was."""
    refs = [bench.blobs.add(b"zip,city\n02134,Boston\n"), bench.blobs.add(b"city,zip\nBern,3000\n")]
    work = bench.work({"inputs": refs, "output_format": "jsonl"})
    result = check_output("data_processing", await DataExecutor().run(work)).result
    assert (2, 2, []) == (result["rows_read"], result["rows_written"], result["steps"])
    lines = bench.blobs.read(result["outputs"][0]).decode().splitlines()
    assert [{"zip": "02134", "city": "Boston"}, {"zip": "3000", "city": "Bern"}] == [*map(json.loads, lines)]


async def test_the_check_runs_the_child() -> None:
    """Polars can be imported under the child's limits."""
    assert await DataExecutor().check() is None


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([{"step": "select", "columns": ["v"]}], [{"v": 1}, {"v": None}, {"v": 4}]),
        (
            [{"step": "drop_missing", "columns": ["v"]}, {"step": "select", "columns": ["v"]}],
            [{"v": 1}, {"v": 4}],
        ),
        ([{"step": "fill_missing", "columns": ["v"], "with": "mean"}], [1, 2.5, 4]),
        ([{"step": "fill_missing", "columns": ["v"], "with": "previous"}], [1, 1, 4]),
        ([{"step": "fill_missing", "columns": ["v"], "with": "most_frequent"}], [1, 1, 4]),
        ([{"step": "fill_missing", "columns": ["v"], "with": "constant", "value": 7}], [1, 7, 4]),
        ([{"step": "cast", "columns": ["v"], "to": "text"}], ["1", None, "4"]),
        ([{"step": "cast", "columns": ["v"], "to": "boolean"}], [True, None, True]),
        ([{"step": "scale", "columns": ["v"], "method": "min_max"}], [0, None, 1]),
        ([{"step": "scale", "columns": ["v"], "method": "standard"}], [-1, None, 1]),
        ([{"step": "scale", "columns": ["v"], "method": "robust"}], [-1, None, 1]),
    ],
)
def test_steps(tmp_path: Path, steps: list[dict[str, Any]], expected: list[Any]) -> None:
    """Each does to the values what it says."""
    made = prepared(tmp_path, "k,v\na,1\nb,\nc,4\n", *steps, types="infer").rows
    values = [row["v"] for row in made]
    assert [item["v"] if isinstance(item, dict) else item for item in expected] == pytest.approx(values)


def test_texts_become_what_they_spell(tmp_path: Path) -> None:
    """Casts read words for truth, dates and whole numbers; what is none fails, or is missing if so wanted."""
    table = 't,d,n\nyes,2024-02-29,"12"\nNO,2024-13-01,x\n'
    null = {"on_error": "null"}
    made = prepared(
        tmp_path,
        table,
        {"step": "cast", "columns": ["t"], "to": "boolean"},
        {"step": "cast", "columns": ["d"], "to": "date", **null},
        {"step": "cast", "columns": ["n"], "to": "integer", **null},
    ).rows
    assert [{"t": True, "d": "2024-02-29", "n": 12}, {"t": False, "d": None, "n": None}] == made
    assert (
        "steps.0: row 2, column n: not a whole number of 64 bits; correct the cell, add its text to missing, "
        "or set on_error to null"
    ) == refusal(tmp_path, table, {"step": "cast", "columns": ["n"], "to": "integer"})


def test_rare_categories_become_one(tmp_path: Path) -> None:
    """The most frequent ones get columns of their own, a missing one is in none."""
    made = prepared(
        tmp_path,
        "c\na\na\nb\nb\nc\nd\nNA\n",
        {"step": "one_hot", "columns": ["c"], "max_categories": 3},
        missing=["NA"],
    ).rows
    assert [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)] == [
        (row["c_a"], row["c_b"], row["c_other"]) for row in (made[0], made[2], made[4], made[5], made[6])
    ]


def test_texts_are_cleaned(tmp_path: Path) -> None:
    """Tags, scripts and entities go, spaces become one, and letters have one spelling."""
    table = 't\n"<p>Caf&eacute;  <b>ﬁne</b></p><script>alert(1)</script>  x < y"\n'
    step = {"step": "clean_text", "columns": ["t"], "unicode": "NFKC", "lower_case": True}
    assert [{"t": "café fine x < y"}] == prepared(tmp_path, table, step).rows


def test_similar_texts_go_and_different_ones_stay() -> None:
    """The first of texts that are nearly the same is kept; at 1 only equal ones count."""
    long = "the quick brown fox jumps over the lazy dog and runs into the forest " * 3
    texts = [long, long.replace("lazy", "crazy"), long, "something else", None, None, "x", "y", "x"]
    assert [True, False, False, True, True, True, True, True, False] == first_of_similar(texts, 0.6)
    assert [True, True, False, True, True, True, True, True, False] == first_of_similar(texts, 1)


def test_seeds_decide_samples_and_splits(tmp_path: Path) -> None:
    """The same seed gives the same rows, another one others; no row is in two parts; shares are kept."""
    table = "n,label\n" + "".join(f"{n},{'ab'[n % 4 == 0]}\n" for n in range(400))
    split = {"train": 0.8, "validation": 0.1, "test": 0.1, "stratify_by": "label"}
    shuffle, sample = {"step": "shuffle"}, {"step": "sample", "fraction": 0.5}
    one, same, other = (
        prepared(tmp_path, table, shuffle, sample, split=split, seed=seed).parts for seed in (1, 1, 2)
    )
    assert one == same != other
    whole = prepared(tmp_path, table, {"step": "drop_missing"}, types={"n": "integer"}, split=split).parts
    assert list(range(400)) == sorted(row["n"] for part in whole.values() for row in part)
    assert {"train": 80, "validation": 10, "test": 10} == {
        name: sum(row["label"] == "b" for row in part) for name, part in whole.items()
    }


def test_values_go_through_unchanged(tmp_path: Path) -> None:
    """What another program would take for a formula or a query is data here."""
    hostile = ["=HYPERLINK('http://x')", "'; DROP TABLE t; --", "@SUM(1)", "read_csv('/etc/passwd')", "*"]
    table = "t\n" + "".join(f'"{text}"\n' for text in hostile)
    keep = {"step": "drop_missing"}
    assert hostile == [row["t"] for row in prepared(tmp_path, table, keep).rows]
    assert (
        hostile
        == pl.read_csv(StringIO(prepared(tmp_path, table, keep, output_format="csv").text))["t"].to_list()
    )


SELECT = {"step": "select", "columns": ["name"]}


@pytest.mark.parametrize(
    ("contents", "payload", "expected"),
    [
        ([b""], {}, (INVALID_PAYLOAD, False)),
        ([b"PAR1" + bytes(100) + b"PAR1"], {"input_format": "parquet"}, (INVALID_PAYLOAD, False)),
        ([b'{"name": [[[[1]]]}\n'], {"input_format": "jsonl"}, (INVALID_PAYLOAD, False)),
        ([b"name\nx\n", b"other\nx\n"], {}, (INVALID_PAYLOAD, False)),
        ([b"other\nx\n"], {}, (INVALID_PAYLOAD, False)),
        ([b"name\nx\n"], {"steps": [{"step": "scale", "columns": ["name"]}]}, (INVALID_PAYLOAD, False)),
    ],
)
async def test_files_and_steps_that_do_not_fit(
    bench: Bench, contents: list[bytes], payload: dict[str, Any], expected: tuple[str, bool]
) -> None:
    """Broken files, other columns and steps that do not suit a column end with a code and say where."""
    refs = [bench.blobs.add(content) for content in contents]
    work = bench.work({"inputs": refs, "steps": [SELECT], **payload})
    assert expected == await failure(DataExecutor(), work)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"split": {"train": 0.5, "validation": 0.1, "test": 0.1}}, (INVALID_PAYLOAD, False)),
        ({"steps": [{"step": "tokenize", "column": "name", "model": "m"}]}, (UNSUPPORTED, True)),
        ({"steps": [{"step": "select", "columns": ['a" FROM t; --']}]}, (INVALID_PAYLOAD, False)),
        ({"steps": [{"step": "python", "code": "1"}]}, (INVALID_PAYLOAD, False)),
    ],
)
async def test_payloads_that_can_not_be_done(
    bench: Bench, payload: dict[str, Any], expected: tuple[str, bool]
) -> None:
    """They are refused before any file is fetched."""
    work = bench.work({"inputs": ["blob:" + "0" * 64], "steps": [SELECT], **payload})
    assert expected == await failure(DataExecutor(), work)


async def test_a_bomb_ends_its_child_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to more than the memory allowed is an error of the job's."""
    monkeypatch.setattr(executor, "MAX_MEMORY_BYTES", 1 << 30)
    file = BytesIO()
    pl.DataFrame({"name": pl.Series(["x" * 1000]).new_from_index(0, 3_000_000)}).write_parquet(
        file, compression="zstd", use_pyarrow=False
    )
    assert len(file.getvalue()) < 10 << 20
    work = bench.work(
        {
            "inputs": [bench.blobs.add(file.getvalue())],
            "input_format": "parquet",
            "steps": [{"step": "cast", "columns": ["name"], "to": "text"}, {"step": "shuffle"}],
            "output_format": "csv",
        }
    )
    code, retryable = await failure(DataExecutor(), work)
    assert code in (RESOURCE_LIMIT, "OUTPUT_TOO_LARGE")
    assert not retryable


async def test_inputs_are_bounded_together(bench: Bench) -> None:
    """Many files may have no more bytes than one."""
    ref = bench.blobs.add(b"name\n" + b"x\n" * 50)
    work = bench.work({"inputs": [ref] * 3, "steps": [SELECT]})
    assert (INPUT_TOO_LARGE, False) == await failure(DataExecutor(max_input_bytes=250), work)
