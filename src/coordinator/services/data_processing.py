"""The service `data_processing`: prepares tables for training, step by step."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from coordinator.services.base import (
    MAX_INTEGER,
    NOT_NULL,
    FileRef,
    KnownService,
    LargeResult,
    ModelName,
    OutputFile,
    Payload,
    ResultPart,
    Seed,
    Strict,
    Warnings,
    Whole,
)

TableFormat = Literal["parquet", "csv", "jsonl"]
Column = Annotated[str, Field(pattern=r'^[^\x00-\x1f\x7f";]{1,128}$')]
"""A name as in the file: any script, without quotes, semicolons and control characters."""
ColumnType = Literal["integer", "number", "text", "boolean", "date", "timestamp"]
SPLIT_TOLERANCE: Final = 1e-6


def _different(columns: list[str]) -> list[str]:
    if len(set(columns)) != len(columns):
        raise ValueError("columns must be unique; name each once")
    return columns


_UNIQUE: Final = {"uniqueItems": True}
Columns = Annotated[
    list[Column],
    Field(min_length=1, max_length=256, json_schema_extra=_UNIQUE),
    AfterValidator(_different),
]
ManyColumns = Annotated[
    list[Column],
    Field(min_length=1, max_length=1000, json_schema_extra=_UNIQUE),
    AfterValidator(_different),
]


class Select(Strict):
    step: Literal["select"]
    columns: ManyColumns
    """The columns to keep, in this order."""


class DropDuplicates(Strict):
    step: Literal["drop_duplicates"]
    columns: Annotated[Columns | None, NOT_NULL] = None
    """The columns to compare; the default is all."""


class DropMissing(Strict):
    step: Literal["drop_missing"]
    columns: Annotated[Columns | None, NOT_NULL] = None
    """The columns to check; the default is all."""


class FillMissing(Strict):
    step: Literal["fill_missing"]
    columns: Columns
    with_: Literal["mean", "median", "most_frequent", "previous", "constant"] = Field(alias="with")
    """constant takes `value`."""
    value: (
        Annotated[str, Field(max_length=1000)]
        | bool
        | Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
        | Annotated[float, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
    ) = ""


class Cast(Strict):
    step: Literal["cast"]
    columns: Columns
    to: ColumnType
    on_error: Literal["fail", "null"] = "fail"


class Scale(Strict):
    step: Literal["scale"]
    columns: Columns
    method: Literal["standard", "min_max", "robust"] = "standard"


class OneHot(Strict):
    step: Literal["one_hot"]
    columns: Columns
    max_categories: Annotated[int, Field(ge=2, le=10_000), Whole] = 100
    """The rarest categories beyond this become one."""


class CleanText(Strict):
    step: Literal["clean_text"]
    columns: Columns
    lower_case: bool = False
    strip_html: bool = True
    collapse_spaces: bool = True
    unicode: Literal["NFC", "NFKC"] = "NFC"


class Tokenize(Strict):
    step: Literal["tokenize"]
    column: Column
    model: ModelName
    """The model whose tokenizer is used."""
    max_length: Annotated[int, Field(ge=1, le=131_072), Whole] = 2048
    """Tokens; longer texts are cut."""


class DeduplicateText(Strict):
    step: Literal["deduplicate_text"]
    column: Column
    similarity: Annotated[float, Field(ge=0.1, le=1)] = 0.85
    """By MinHash; 1 drops equal texts only."""


class Sample(Strict):
    step: Literal["sample"]
    fraction: Annotated[float, Field(gt=0, le=1)]


class Shuffle(Strict):
    step: Literal["shuffle"]


TableStep = Annotated[
    Select
    | DropDuplicates
    | DropMissing
    | FillMissing
    | Cast
    | Scale
    | OneHot
    | CleanText
    | Tokenize
    | DeduplicateText
    | Sample
    | Shuffle,
    Field(discriminator="step"),
]
Share = Annotated[float, Field(ge=0, le=1)]
Rows = Annotated[int, Field(ge=0)]


class Split(Strict):
    """Shares of the rows, which sum to 1; each is one output."""

    train: Share
    validation: Share
    test: Share
    stratify_by: Annotated[Column | None, NOT_NULL] = None
    """Each part keeps the shares of this column's values."""


class CsvOptions(Strict):
    """The form of CSV inputs; outputs have commas, double quotes and UTF-8."""

    delimiter: Annotated[str, Field(pattern=r"^(?:auto|[^\x00\r\n\"'])$")] = "auto"
    """One character; auto finds comma, semicolon, tab or |."""
    quote: Literal['"', "'", ""] = '"'
    """The mark around cells that hold delimiters or ends of lines; empty if quotes are plain characters."""
    header: bool = True
    """Without one the columns are column_1, column_2 and so on."""
    ragged: Literal["fail", "pad"] = "fail"
    """A row with too few or too many cells: an error that names its line, or padded with empty cells."""
    decimal_comma: bool = False
    """Numbers are read as 1,5 in place of 1.5."""


def _in_one(schema: dict[str, Any]) -> None:
    """A text or an object as one schema, so that a fault is named where it is and not as one of `anyOf`."""
    choices = schema.pop("anyOf")
    schema["type"] = [choice["type"] for choice in choices]
    for choice in choices:
        schema.update({name: value for name, value in choice.items() if name != "type"})


class DataPayload(Payload):
    """Files with the same columns, the steps for their rows, and the form of the output."""

    inputs: Annotated[list[FileRef], Field(min_length=1, max_length=1000)]
    """Files with the same columns, whose order is the first one's; csv and jsonl also as gzip."""
    input_format: TableFormat = "csv"
    types: Annotated[
        Annotated[str, Field(pattern="^(?:text|infer)$")]
        | Annotated[dict[Column, ColumnType], Field(min_length=1, max_length=1000)]
        | None,
        Field(json_schema_extra=_in_one),
        NOT_NULL,
    ] = None
    """The types of columns. By default cells of CSV are text as they are; jsonl and parquet have types.
    `infer` gives a column of CSV a type that all its cells have; leading zeros stay text.
    An object names the types of some columns. A cell that does not fit its type is an error."""
    missing: Annotated[
        list[Annotated[str, Field(max_length=100)]] | None, Field(max_length=100), NOT_NULL
    ] = None
    """Cells of text that count as missing. By default the empty cell of CSV, and none of jsonl or parquet."""
    encoding: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,39}$")] = "auto"
    """Of CSV and jsonl. auto is UTF-8 or what a byte order mark says, else cp1252 for CSV, with a warning."""
    csv: CsvOptions = CsvOptions()
    steps: Annotated[tuple[TableStep, ...], Field(max_length=50, strict=False)] = ()
    """Applied in this order. Without any, the files are read, put together and converted."""
    split: Annotated[Split | None, NOT_NULL] = None
    seed: Annotated[Seed | None, NOT_NULL] = None
    """The seed for sampling, shuffling and splitting. Random by default."""
    output_format: TableFormat = "parquet"

    def contradiction(self) -> str | None:
        split = self.split
        if split is not None and abs(split.train + split.validation + split.test - 1) > SPLIT_TOLERANCE:
            return "split: train, validation and test must sum to 1"
        return None


class StepDone(ResultPart):
    step: Annotated[str, Field(max_length=40)]
    rows: Rows


class ColumnMade(ResultPart):
    name: Annotated[str, Field(max_length=128)]
    type: Literal["integer", "number", "text", "boolean", "date", "timestamp", "tokens", "other"]
    missing: Rows | None = None
    """Rows without a value."""


class PreparedData(LargeResult):
    LARGE: ClassVar = {"columns": None}

    rows_read: Rows
    rows_written: Rows
    steps: Annotated[list[StepDone], Field(max_length=50)] | None = None
    """Rows after each step."""
    columns: Annotated[list[ColumnMade], Field(min_length=1, max_length=10_000)] | None = None
    """Of the outputs. Thousands of them are in a file with the whole result instead, the last output."""
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=4)]
    """The dataset, or its parts."""
    warnings: Warnings | None = None
    """What the client should know: a guessed encoding, values that changed their form."""


SERVICE: Final = KnownService("data_processing", TypeAdapter(DataPayload), PreparedData)
