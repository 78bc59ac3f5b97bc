"""What a job of `data_processing` may ask for. The catalogue's schema says the same."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from coordinator.miner.executors.base import INVALID_PAYLOAD, UNSUPPORTED, ExecutorError, FileRef
from coordinator.miner.executors.llm.payload import GIVEN, ModelName, Seed, Strict, Whole

MEDIA_TYPES: Final = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
}
Format = Literal["parquet", "csv", "jsonl"]
Column = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_ .-]{0,63}$")]
LARGEST: Final = 2**53 - 1
SPLIT_TOLERANCE: Final = 1e-6


def _different(columns: list[str]) -> list[str]:
    if len(set(columns)) != len(columns):
        raise ValueError("each column once")
    return columns


Columns = Annotated[list[Column], Field(min_length=1, max_length=256), AfterValidator(_different)]
ManyColumns = Annotated[list[Column], Field(min_length=1, max_length=1000), AfterValidator(_different)]


class Select(Strict):
    step: Literal["select"]
    columns: ManyColumns


class DropDuplicates(Strict):
    step: Literal["drop_duplicates"]
    columns: Columns = Field(default=[])


class DropMissing(Strict):
    step: Literal["drop_missing"]
    columns: Columns = Field(default=[])


class FillMissing(Strict):
    step: Literal["fill_missing"]
    columns: Columns
    with_: Literal["mean", "median", "most_frequent", "previous", "constant"] = Field(alias="with")
    value: (
        Annotated[str, Field(max_length=1000)]
        | bool
        | Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
        | Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
    ) = ""


class Cast(Strict):
    step: Literal["cast"]
    columns: Columns
    to: Literal["integer", "number", "text", "boolean", "date", "timestamp"]
    on_error: Literal["fail", "null"] = "fail"


class Scale(Strict):
    step: Literal["scale"]
    columns: Columns
    method: Literal["standard", "min_max", "robust"] = "standard"


class OneHot(Strict):
    step: Literal["one_hot"]
    columns: Columns
    max_categories: Annotated[int, Field(ge=2, le=10_000), Whole] = 100


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
    max_length: Annotated[int, Field(ge=1, le=131_072), Whole] = 2048


class DeduplicateText(Strict):
    step: Literal["deduplicate_text"]
    column: Column
    similarity: Annotated[float, Field(ge=0.1, le=1)] = 0.85


class Sample(Strict):
    step: Literal["sample"]
    fraction: Annotated[float, Field(gt=0, le=1)]


class Shuffle(Strict):
    step: Literal["shuffle"]


Step = Annotated[
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


class Split(Strict):
    train: Share
    validation: Share
    test: Share
    stratify_by: Annotated[Column | None, GIVEN] = None


class DataPayload(Strict):
    """Files with the same columns, what to do to their rows, and how to hand them out."""

    inputs: Annotated[list[FileRef], Field(min_length=1, max_length=1000)]
    input_format: Format = "csv"
    steps: Annotated[list[Step], Field(min_length=1, max_length=50)]
    split: Annotated[Split | None, GIVEN] = None
    seed: Annotated[Seed | None, GIVEN] = None
    output_format: Format = "parquet"


def check_possible(payload: DataPayload) -> None:
    """Raise ExecutorError for what a schema can't say is wrong, and for what can't be done here."""
    split = payload.split
    if split is not None and abs(split.train + split.validation + split.test - 1) > SPLIT_TOLERANCE:
        raise ExecutorError(INVALID_PAYLOAD, "split: train, validation and test must sum to 1")
    if any(isinstance(step, Tokenize) for step in payload.steps):
        raise ExecutorError(UNSUPPORTED, "tokenize: there is no model's tokenizer here", retryable=True)
