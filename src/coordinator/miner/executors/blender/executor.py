"""The service `3d_rendering`: Blender in a process of its own, watched and bounded.

A .blend file may hold scripts, and nodes that write anywhere. Scripts are off (`--disable-autoexec`), and so
are the user's own settings. `setup.py` removes nodes and paths that read or write other files. It can't
remove a library that a file links to by path: Blender reads that when it opens the file, if it exists.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from coordinator.domain.matching.gpus import Vendor
from coordinator.domain.matching.units import CountedUnit
from coordinator.miner.executors.base import Outcome, Work, payload_of
from coordinator.miner.executors.counts import gigabytes
from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.process import Finished, killed, run_program
from coordinator.services.base import OutputFile
from coordinator.services.rendering_3d import MAX_FILES, SERVICE, RenderedFrames, RenderPayload

TIMEOUT_SECONDS: Final = 86_400.0
CHECK_SECONDS: Final = 120.0
MAX_INPUT_BYTES: Final = 5 * 2**30
MAX_FRAME_BYTES: Final = 2 * 2**30
MAX_OUTPUT_BYTES: Final = 50 * 2**30
MAX_PIXELS: Final = 16_384 * 16_384
MAX_FRAMES: Final = 100_000
SETUP: Final = Path(__file__).with_name("setup.py")
_LINE_PREFIX: Final = "COORDINATOR "
_VERSION: Final = re.compile(r"^Blender (\d+)\.(\d+)")
FORMATS: Final = {
    "png": ("PNG", "png", "image/png"),
    "jpg": ("JPEG", "jpg", "image/jpeg"),
    "exr": ("OPEN_EXR", "exr", "image/x-exr"),
    "bmp": ("BMP", "bmp", "image/bmp"),
    "tiff": ("TIFF", "tif", "image/tiff"),
}
"""Blender's name, its file ending, and the media type."""


def engines_of(version: tuple[int, int]) -> dict[str, str]:
    """Blender's names for the engines of a version. EEVEE Next came with 4.2 and is EEVEE since 5.0."""
    engines = {"cycles": "CYCLES"}
    if version < (4, 2):
        engines["eevee"] = "BLENDER_EEVEE"
    elif version < (5, 0):
        engines["eevee-next"] = "BLENDER_EEVEE_NEXT"
    else:
        engines |= {"eevee": "BLENDER_EEVEE", "eevee-next": "BLENDER_EEVEE"}
    return engines


def build_arguments(program: str, file: str | None) -> list[str]:
    """The whole argument list, without a client's text. Without a file Blender opens its own cube."""
    return [
        program,
        *("--background", "--factory-startup", "--disable-autoexec", "-noaudio"),
        *([file] if file else []),
        *("--python-exit-code", "4", "--python", str(SETUP)),
    ]


def plan_of(payload: RenderPayload, engine: str) -> dict[str, Any]:
    """The plan for `setup.py`: our own words, and numbers within bounds."""
    plan = payload.model_dump(mode="json", exclude={"blend_file_url", "engine", "format"})
    return plan | {"engine": engine, "file_format": FORMATS[payload.format][0], "max_frames": MAX_FRAMES}


DEVICE_VENDORS: Final[dict[str, frozenset[Vendor]]] = {
    "OPTIX": frozenset({"nvidia"}),
    "CUDA": frozenset({"nvidia"}),
    "HIP": frozenset({"amd"}),
    "ONEAPI": frozenset({"intel"}),
    "METAL": frozenset({"apple"}),
}
"""Cycles' kinds of devices, and the vendors of their GPUs."""


class BlenderExecutor:
    """Renders on GPUs if Cycles finds any. Blender is the given program, or the one on PATH."""

    services = (SERVICE.id,)

    def __init__(
        self,
        program: str | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
    ) -> None:
        self._program = program
        self._timeout_seconds = timeout_seconds
        self._max_output_bytes = max_output_bytes
        self.engines: dict[str, str] = {}
        """The engines that have rendered a frame here; empty before `check`."""
        self.gpu_vendors: frozenset[Vendor] = frozenset()
        """The vendor whose GPUs Cycles uses; empty if it has only the processor."""
        self._known: dict[str, str] = {}

    async def check(self) -> str | None:
        """Find Blender, and render a tiny frame with Cycles; other engines do so before their first job."""
        program = self._program or shutil.which("blender")
        if program is None:
            return "blender is not installed: put it on PATH"
        with TemporaryDirectory(prefix="blender-check-") as folder:
            lines: list[str] = []
            try:
                await run_program(
                    [program, "--version"],
                    folder=Path(folder),
                    timeout_seconds=CHECK_SECONDS,
                    limits_data=False,
                    on_stdout=lines.append,
                )
            except ExecutorError as error:
                return f"blender does not run: {error.detail}"
            version = next((found for line in lines if (found := _VERSION.match(line))), None)
            if version is None:
                return "blender does not run: it prints no version"
            self._known = engines_of((int(version[1]), int(version[2])))
            self._program = program
            self.engines = {}
            await self._try("cycles", Path(folder))
        if "cycles" not in self.engines:
            return "blender does not render: Cycles made no frame"
        return None

    async def _try(self, name: str, folder: Path) -> None:
        """Keep an engine that renders a frame of Blender's own cube: some need a display, or a GPU."""
        assert self._program is not None
        if name not in self._known:
            return
        device = await _renders(self._program, folder, self._known[name])
        if device is not None:
            self.engines[name] = self._known[name]
            if name == "cycles":
                self.gpu_vendors = DEVICE_VENDORS.get(device, frozenset())

    async def run(self, work: Work) -> Outcome:
        """The result is RenderedFrames.

        Raises ExecutorError: INVALID_PAYLOAD (also a file that Blender can't open or that has no camera),
        UNSUPPORTED (no such engine here), EXECUTOR_TIMEOUT, EXECUTOR_FAILED, EXECUTOR_KILLED,
        RESOURCE_LIMIT, OUTPUT_TOO_LARGE, and the errors of downloads and uploads.
        """
        # 1. Read the payload, and check that this machine can run it.
        payload = payload_of(SERVICE, work)
        if payload.size[0] * payload.size[1] > MAX_PIXELS:
            raise ExecutorError(INVALID_PAYLOAD, f"resolution: more than {MAX_PIXELS} pixels")
        if not self.engines and (problem := await self.check()):
            raise ExecutorError(UNSUPPORTED, problem, retryable=True)
        if payload.engine not in self.engines:
            with TemporaryDirectory(prefix="blender-check-") as folder:
                await self._try(payload.engine, Path(folder))
        if payload.engine not in self.engines:
            raise ExecutorError(UNSUPPORTED, f"{payload.engine} does not run here", retryable=True)
        assert self._program is not None

        # 2. Fetch the file, under a name of ours.
        source = work.folder / "input.blend"
        await work.blobs.download(payload.blend_file_url, source, max_bytes=MAX_INPUT_BYTES)
        (work.folder / "frames").mkdir()
        plan = plan_of(payload, self.engines[payload.engine])
        (work.folder / "plan.json").write_text(json.dumps(plan))

        # 3. Render.
        started = time.monotonic()
        watch = _BlenderProgress(work.progress)
        finished = await run_program(
            build_arguments(self._program, source.name),
            folder=work.folder,
            timeout_seconds=self._timeout_seconds,
            max_file_bytes=MAX_FRAME_BYTES,
            # A scene may fill a machine; GPUs' drivers reserve memory that nobody uses.
            max_memory=work.share.memory(),
            limits_data=False,
            # The frames, and their archive.
            max_disk=work.share.disk(MAX_INPUT_BYTES + 2 * self._max_output_bytes),
            on_stdout=watch.line,
        )
        seconds = time.monotonic() - started
        _check_finished(finished, watch)

        # 4. Store the frames.
        ending = FORMATS[payload.format][1]
        frames = sorted(
            path
            for path in (work.folder / "frames").glob(f"*.{ending}")
            if path.is_file() and not path.is_symlink()
        )
        if len(frames) < max(1, watch.frames):
            raise ExecutorError(
                EXECUTOR_FAILED,
                f"Blender made {len(frames)} of {watch.frames} frames",
                retryable=bool(frames),
            )
        if sum(path.stat().st_size for path in frames) > self._max_output_bytes:
            raise ExecutorError(
                OUTPUT_TOO_LARGE, f"the frames have more than {self._max_output_bytes} bytes; render fewer"
            )
        outputs = await _store(work, frames, FORMATS[payload.format][2])
        width, height = payload.size
        result = RenderedFrames(
            engine=payload.engine,
            format=payload.format,
            width=width,
            height=height,
            frames=len(frames),
            outputs=outputs,
            render_seconds=round(seconds, 3),
        )
        metrics: dict[str, int | str] = {"wall_ms": round(seconds * 1000), "frames": len(frames)}
        units: dict[CountedUnit, int | str] = {"frame": len(frames), "gb": gigabytes(outputs)}
        return Outcome(result.document(), metrics | {"device": watch.device}, units)


class _BlenderProgress:
    """Reads the lines of `setup.py` among Blender's own."""

    def __init__(self, progress: Callable[[float, str], None]) -> None:
        self._progress = progress
        self.frames = 0
        """To be rendered."""
        self.device = ""
        self.error = ""
        self.opened = False

    def line(self, line: str) -> None:
        if not line.startswith(_LINE_PREFIX):
            return
        try:
            message = json.loads(line.removeprefix(_LINE_PREFIX))
        except ValueError:
            return
        self.opened = True
        if isinstance(message.get("frames"), int):
            self.frames = message["frames"]
            self.device = str(message.get("device", ""))[:20]
        if isinstance(message.get("done"), int) and self.frames:
            self._progress(min(message["done"] / self.frames, 0.99), "rendering")
        self.error = str(message.get("error", self.error))[:200]


def _check_finished(finished: Finished, watch: _BlenderProgress) -> None:
    """Raise ExecutorError unless the run succeeded."""
    if watch.error:
        raise ExecutorError(INVALID_PAYLOAD, f"blend_file_url: {watch.error}")
    if finished.returncode < 0:
        raise killed(finished.returncode)
    if not watch.opened:
        raise ExecutorError(INVALID_PAYLOAD, "blend_file_url: Blender can't open it")
    if finished.returncode > 0:
        raise ExecutorError(EXECUTOR_FAILED, "Blender failed while rendering", retryable=True)


async def _store(work: Work, frames: list[Path], media_type: str) -> list[OutputFile]:
    if len(frames) <= MAX_FILES:
        return [await work.blobs.upload(path, media_type=media_type) for path in frames]
    archive = work.folder / "frames.zip"
    await asyncio.to_thread(_pack, archive, frames)
    return [await work.blobs.upload(archive, media_type="application/zip")]


def _pack(archive: Path, frames: list[Path]) -> None:
    # Without compression: images are compressed already.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in frames:
            file.write(path, path.name)


async def _renders(program: str, folder: Path, engine: str) -> str | None:
    """The device with which an engine has rendered a frame of Blender's own cube; None if it can't."""
    tiny = RenderPayload(blend_file_url=f"blob:{'0' * 64}", resolution_x=16, resolution_y=16, samples=1)
    plan = plan_of(tiny.model_copy(update={"denoise": False, "frame_start": 1}), engine)
    (folder / "plan.json").write_text(json.dumps(plan))
    shutil.rmtree(folder / "frames", ignore_errors=True)
    (folder / "frames").mkdir()
    watch = _BlenderProgress(lambda fraction, note: None)
    try:
        finished = await run_program(
            build_arguments(program, None),
            folder=folder,
            timeout_seconds=CHECK_SECONDS,
            limits_data=False,
            on_stdout=watch.line,
        )
    except ExecutorError:
        return None
    made = finished.returncode == 0 and any((folder / "frames").glob("*.png"))
    return watch.device if made else None
