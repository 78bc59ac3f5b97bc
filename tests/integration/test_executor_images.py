"""`image_processing` with the real Pillow in its child process, on good and on hostile images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordinator.miner.executors.errors import (
    EXECUTOR_TIMEOUT,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    RESOURCE_LIMIT,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.images import executor
from coordinator.miner.executors.images.executor import ImagesExecutor
from coordinator.miner.executors.in_child import output_of
from tests.harness.images import edited
from tests.harness.works import Bench, FolderBlobs, check_output, failure


def picture(size: tuple[int, int] = (60, 40), kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """Left half red, right half blue."""
    image = Image.new(mode, size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("image_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


async def test_the_check_runs_the_child() -> None:
    """Pillow can be imported under the child's limits."""
    assert await ImagesExecutor().check() is None


async def test_images_through_the_child(bench: Bench) -> None:
    """Each image becomes one output with its size, in their order; the copies of the inputs are gone."""
    refs = [bench.blobs.add(picture(size)) for size in ((60, 40), (30, 90))]
    half = {"operation": "resize", "width": 20, "height": 20}
    work = bench.work({"images": refs, "operations": [half], "output_format": "webp"})
    outcome = check_output("image_processing", await ImagesExecutor().run(work))
    assert ([[20, 13], [7, 20]], 2) == (outcome.result["sizes"], outcome.metrics["images"])
    assert ["0001.webp", "0002.webp"] == [output["name"] for output in outcome.result["outputs"]]
    made = Image.open(BytesIO(bench.blobs.read(outcome.result["outputs"][1])))
    assert ("WEBP", (7, 20)) == (made.format, made.size)
    assert bench.progress[-1] == (0.99, "processing")
    assert not list(work.folder.glob("input-*"))


@pytest.mark.parametrize(
    ("output_format", "kind"),
    [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF"), ("avif", "AVIF")],
)
def test_formats(tmp_path: Path, output_format: str, kind: str) -> None:
    """Inputs of every kind become outputs of one, in their order, transparent or not."""
    contents = [
        picture((8, 8)),
        picture((9, 8), "JPEG"),
        picture((10, 8), "GIF"),
        picture((11, 8), "WEBP", "RGBA"),
    ]
    made = edited(tmp_path, contents, output_format=output_format).images
    assert [(kind, width) for width in (8, 9, 10, 11)] == [(image.format, image.width) for image in made]


@pytest.mark.parametrize(
    ("operation", "size", "left"),
    [
        ({"operation": "resize", "width": 30, "height": 30}, (30, 20), "red"),
        ({"operation": "resize", "width": 30, "height": 30, "fit": "cover"}, (30, 30), "red"),
        ({"operation": "resize", "width": 30, "height": 30, "fit": "stretch"}, (30, 30), "red"),
        ({"operation": "crop", "left": 40, "top": 0, "width": 100, "height": 10}, (20, 10), "blue"),
        ({"operation": "rotate", "degrees": 90}, (40, 60), None),
        ({"operation": "rotate", "degrees": 180}, (60, 40), "blue"),
        ({"operation": "flip", "direction": "horizontal"}, (60, 40), "blue"),
        ({"operation": "flip", "direction": "vertical"}, (60, 40), "red"),
        ({"operation": "denoise"}, (60, 40), "red"),
        ({"operation": "sharpen", "strength": 1}, (60, 40), "red"),
        ({"operation": "blur", "radius": 0.5}, (60, 40), "red"),
        ({"operation": "adjust", "brightness": 0}, (60, 40), "black"),
    ],
)
def test_operations(
    tmp_path: Path, operation: dict[str, Any], size: tuple[int, int], left: str | None
) -> None:
    """Each does to size and content what it says."""
    made = edited(tmp_path, [picture()], operation).image
    assert size == made.size
    if left is not None:
        colour = Image.new("RGB", (1, 1), left).getpixel((0, 0))
        assert colour == made.convert("RGB").getpixel((3, size[1] // 2))


def test_operations_in_their_order(tmp_path: Path) -> None:
    """Turning clockwise and then cutting off the top keeps what was on the left."""
    turned, top = {"operation": "rotate", "degrees": 90}, {"left": 0, "top": 0, "width": 40, "height": 20}
    made = edited(tmp_path, [picture()], turned, {"operation": "crop", **top}).image
    assert ((40, 20), (255, 0, 0)) == (made.size, made.convert("RGB").getpixel((20, 5)))


@pytest.mark.parametrize("keep", [True, False])
def test_metadata_goes_unless_it_is_to_be_kept(tmp_path: Path, keep: bool) -> None:
    """Where and when a picture was taken leaves only on request; its orientation is applied either way."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a secret place", 6
    made = edited(tmp_path, [picture(kind="JPEG", exif=exif)], output_format="jpg", keep_metadata=keep).image
    assert ((40, 60), keep) == (made.size, made.getexif().get(0x010E) == "a secret place")
    assert made.getexif().get(0x0112) is None


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is huge, and holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "operations", "expected"),
    [
        (b"", [], (INVALID_PAYLOAD, False)),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), [], (INVALID_PAYLOAD, False)),
        (picture()[:80], [], (INVALID_PAYLOAD, False)),
        (bomb(60_000, 60_000), [], (INPUT_TOO_LARGE, False)),
        (bomb(2**31 - 1, 2**31 - 1), [], (INPUT_TOO_LARGE, False)),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            [],
            (INVALID_PAYLOAD, False),
        ),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
            [],
            (INVALID_PAYLOAD, False),
        ),
        (picture(), [{"operation": "resize", "width": 16384, "height": 16384}], (INPUT_TOO_LARGE, False)),
        (
            picture(),
            [{"operation": "crop", "left": 60, "top": 0, "width": 1, "height": 1}],
            (INVALID_PAYLOAD, False),
        ),
        (picture(), [{"operation": "upscale", "factor": 2}], (UNSUPPORTED, True)),
        (picture(), [{"operation": "remove_background"}], (UNSUPPORTED, True)),
        (picture(), [{"operation": "resize", "width": 1e9, "height": 1}], (INVALID_PAYLOAD, False)),
        (picture(), [{"operation": "exec"}], (INVALID_PAYLOAD, False)),
    ],
)
async def test_hostile_images(
    bench: Bench, content: bytes, operations: list[dict[str, Any]], expected: tuple[str, bool]
) -> None:
    """Bombs, broken files, programs and what Pillow can't do end with their code."""
    work = bench.work({"images": [bench.blobs.add(content)], "operations": operations})
    assert expected == await failure(ImagesExecutor(), work)


async def test_memory_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that fits the pixels and not the memory ends its child alone."""
    monkeypatch.setattr(executor, "MAX_MEMORY_BYTES", 400 << 20)
    work = bench.work({"images": [bench.blobs.add(picture((9_000, 9_000), "PNG"))]})
    code, retryable = await failure(ImagesExecutor(), work)
    assert code == RESOURCE_LIMIT
    assert not retryable


async def test_time_is_bounded(bench: Bench) -> None:
    """Work that takes too long is ended, whatever the child does."""
    slow = [{"operation": "blur", "radius": 250}] * 20
    work = bench.work({"images": [bench.blobs.add(picture((6_000, 6_000)))], "operations": slow})
    assert (EXECUTOR_TIMEOUT, True) == await failure(ImagesExecutor(timeout_seconds=1), work)


def test_what_a_child_leaves_is_a_file_in_the_folder(tmp_path: Path) -> None:
    """Links and names that lead elsewhere are not uploaded."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "file").write_text("x")
    assert tmp_path / "file" == output_of(tmp_path, "file")
    for name in ("link", "../x", "/etc/passwd", "", ".", "missing"):
        with pytest.raises(ExecutorError):
            output_of(tmp_path, name)
