"""`3d_rendering`: with the real Blender where it is installed, and what surrounds it with a stub everywhere.

Blender is too large to install for every test run: the tests that need it are skipped where it is not on
PATH. The stub is a shell script that renders nothing, and stands for the ways in which Blender can end.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordinator.miner.executors.blender.executor import (
    SETUP,
    BlenderExecutor,
    build_arguments,
    engines_of,
    plan_of,
)
from coordinator.miner.executors.errors import EXECUTOR_TIMEOUT, INVALID_PAYLOAD, UNSUPPORTED
from coordinator.services.rendering_3d import RenderPayload
from tests.harness.works import Bench, FolderBlobs, check_output, failure

REF = "blob:" + "0" * 64
SMALL = {"resolution_x": 64, "resolution_y": 32, "samples": 2, "denoise": False}
needs_blender = pytest.mark.skipif(shutil.which("blender") is None, reason="blender is not on PATH")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("3d_rendering", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


# --- arguments, without Blender -----------------------------------------------------------------------------


def test_nothing_of_a_clients_is_an_argument() -> None:
    """Scripts and the user's settings are off before the file is opened; the rest is ours."""
    arguments = build_arguments("/usr/bin/blender", "input.blend")
    place = arguments.index("input.blend")
    assert {"--background", "--factory-startup", "--disable-autoexec"} <= set(arguments[:place])
    assert ["--python-exit-code", "4", "--python", str(SETUP)] == arguments[place + 1 :]


def test_the_plan_holds_numbers_and_words_of_ours() -> None:
    """What the script reads are the job's numbers, and Blender's names for engine and format."""
    payload = RenderPayload(blend_file_url=REF, engine="eevee", format="exr", frame_start=3, samples=5)
    plan = plan_of(payload, "BLENDER_EEVEE")
    assert ("BLENDER_EEVEE", "OPEN_EXR", 3, None, 5) == (
        plan["engine"],
        plan["file_format"],
        plan["frame_start"],
        plan["frame_end"],
        plan["samples"],
    )
    assert REF not in str(plan)


@pytest.mark.parametrize(
    ("version", "engines"),
    [
        ((3, 4), {"cycles": "CYCLES", "eevee": "BLENDER_EEVEE"}),
        ((4, 2), {"cycles": "CYCLES", "eevee-next": "BLENDER_EEVEE_NEXT"}),
        ((5, 0), {"cycles": "CYCLES", "eevee": "BLENDER_EEVEE", "eevee-next": "BLENDER_EEVEE"}),
    ],
)
def test_each_version_has_its_engines(version: tuple[int, int], engines: dict[str, str]) -> None:
    """The names changed twice."""
    assert engines == engines_of(version)


def stub(folder: Path, script: str, timeout_seconds: float = 60) -> BlenderExecutor:
    """An executor on a script in Blender's place, which is taken for one that renders with Cycles."""
    program = folder / "stub"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    executor = BlenderExecutor(str(program), timeout_seconds=timeout_seconds)
    executor.engines = {"cycles": "CYCLES"}
    return executor


SAYS = "echo 'COORDINATOR {\"frames\": 1}'"


@pytest.mark.parametrize(
    ("script", "payload", "expected"),
    [
        ("exit 1", {}, (INVALID_PAYLOAD, False)),
        (f"{SAYS}; exit 4", {}, ("EXECUTOR_FAILED", True)),
        (f"{SAYS}; exit 0", {}, ("EXECUTOR_FAILED", False)),
        ("echo 'COORDINATOR {\"frames\": 2}'; echo > frames/0001.png", {}, ("EXECUTOR_FAILED", True)),
        (f"{SAYS}; kill -SEGV $$", {}, ("EXECUTOR_KILLED", False)),
        (f"{SAYS}; exec sleep 60", {}, (EXECUTOR_TIMEOUT, True)),
        (f"{SAYS}; ln -s /etc/passwd frames/0001.png", {}, ("EXECUTOR_FAILED", False)),
        ('echo \'COORDINATOR {"error": "no camera"}\'; exit 3', {}, (INVALID_PAYLOAD, False)),
        ("exit 0", {"engine": "eevee"}, (UNSUPPORTED, True)),
        ("exit 0", {"frame_start": 5, "frame_end": 4}, (INVALID_PAYLOAD, False)),
        ("exit 0", {"resolution_x": 65_536, "resolution_y": 65_536}, (INVALID_PAYLOAD, False)),
        ("exit 0", {"format": "png; rm -rf /"}, (INVALID_PAYLOAD, False)),
    ],
)
async def test_the_ways_it_can_end(
    tmp_path: Path, bench: Bench, script: str, payload: dict[str, Any], expected: tuple[str, bool]
) -> None:
    """Crashes, hangs, links in place of frames and impossible jobs end with their code."""
    work = bench.work({"blend_file_url": bench.blobs.add(b"a file"), **payload})
    seconds = 1 if expected[0] == EXECUTOR_TIMEOUT else 60
    assert expected == await failure(stub(tmp_path, script, seconds), work)


async def test_without_blender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check says that it is not there, or that what is there is none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "blender is not installed: put it on PATH" == await BlenderExecutor().check()
    monkeypatch.undo()
    told = await stub(tmp_path, "echo Blunder 1.0").check()
    assert "blender does not run: it prints no version" == told


# --- the real one -------------------------------------------------------------------------------------------

HOSTILE = """
import bpy
bpy.ops.preferences.addon_enable(module="cycles")
text = bpy.data.texts.new("evil.py")
text.write("import pathlib\\npathlib.Path('/tmp/TOKEN').write_text('run')\\n")
text.use_module = True
scene = bpy.context.scene
cube = bpy.data.objects["Cube"]
driver = cube.driver_add("location", 0).driver
driver.type = "SCRIPTED"
driver.expression = "__import__('pathlib').Path('/tmp/TOKEN').write_text('driven') or 0"
scene.use_nodes = True
node = scene.node_tree.nodes.new("CompositorNodeOutputFile")
node.base_path = "/tmp/TOKEN-out"
scene.node_tree.links.new(scene.node_tree.nodes["Render Layers"].outputs[0], node.inputs[0])
scene.render.filepath = "/tmp/TOKEN-frame"
scene.frame_start, scene.frame_end = 2, 4
bpy.ops.wm.save_as_mainfile(filepath="TARGET")
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """A .blend file that tries to run scripts and to write elsewhere, and how those paths begin."""
    folder = tmp_path_factory.mktemp("blend")
    token = f"{folder.name}-escaped"
    target = folder / "hostile.blend"
    (folder / "make.py").write_text(HOSTILE.replace("TOKEN", token).replace("TARGET", str(target)))
    command = ["blender", "--background", "--factory-startup", "--python-exit-code", "1", "--python"]
    made = subprocess.run([*command, str(folder / "make.py")], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return target.read_bytes(), token


def escaped(token: str) -> list[Path]:
    """What was written outside of the job's folder."""
    return list(Path("/tmp").glob(f"{token}*"))


@needs_blender
async def test_a_scene_is_rendered_and_its_scripts_are_not_run(
    bench: Bench, hostile: tuple[bytes, str]
) -> None:
    """The frames that the file names come out in the size asked for; nothing else is written."""
    content, token = hostile
    executor = BlenderExecutor()
    assert await executor.check() is None
    outcome = await executor.run(bench.work({"blend_file_url": bench.blobs.add(content), **SMALL}))
    result = check_output("3d_rendering", outcome).result
    assert (3, 64, 32) == (result["frames"], result["width"], result["height"])
    assert ["0002.png", "0003.png", "0004.png"] == [output["name"] for output in result["outputs"]]
    images = [Image.open(BytesIO(bench.blobs.read(output))) for output in result["outputs"]]
    assert [("PNG", (64, 32))] * 3 == [(image.format, image.size) for image in images]
    assert len(images[0].convert("RGB").getcolors(10_000) or ()) > 10, "a picture, not a blank"
    assert bench.progress[-1] == (0.99, "rendering")
    assert [] == escaped(token)


@needs_blender
async def test_transparent_frames_in_another_format(bench: Bench, hostile: tuple[bytes, str]) -> None:
    """One frame, half the size, without a background."""
    asked = {"frame_start": 7, "format": "tiff", "transparent": True, "resolution_percentage": 50}
    executor = BlenderExecutor()
    work = bench.work({"blend_file_url": bench.blobs.add(hostile[0]), **SMALL, **asked})
    [output] = check_output("3d_rendering", await executor.run(work)).result["outputs"]
    image = Image.open(BytesIO(bench.blobs.read(output)))
    assert ("0007.tif", (32, 16), "RGBA", 0) == (
        output["name"],
        image.size,
        image.mode,
        image.getpixel((0, 0))[3],  # type: ignore[index]
    )


@needs_blender
async def test_a_file_that_is_none(bench: Bench) -> None:
    """What Blender can't open is the job's fault."""
    executor = BlenderExecutor()
    work = bench.work({"blend_file_url": bench.blobs.add(b"BLENDER-v304" + bytes(100)), **SMALL})
    assert (INVALID_PAYLOAD, False) == await failure(executor, work)
