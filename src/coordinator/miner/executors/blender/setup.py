"""Runs inside Blender (`--python`) with the job's file open: confines the file, applies settings, renders.

The miner does not import it: `bpy` exists only in Blender. Its instructions are in `plan.json` beside the
file: numbers and words that the miner has checked. It prints `COORDINATOR {json}` lines.
"""

import json
import os
import sys
from typing import Any

import bpy


def send(**message: object) -> None:
    print("COORDINATOR " + json.dumps(message), flush=True)  # noqa: T201 - the miner reads stdout


def confine(scene: Any) -> None:
    """Remove everything from the scene that reads or writes other files."""
    scene.render.use_sequencer = False  # its strips name films and images by path
    trees = [scene.node_tree] if getattr(scene, "node_tree", None) else []
    trees += list(bpy.data.node_groups)
    for tree in trees:
        for node in [node for node in tree.nodes if node.bl_idname == "CompositorNodeOutputFile"]:
            tree.nodes.remove(node)
    for image in bpy.data.images:
        if image.source in {"FILE", "SEQUENCE", "MOVIE", "TILED"} and not image.packed_file:
            image.filepath = ""


def use_gpus(scene: Any) -> str:
    """Let Cycles use all GPUs, or the CPU if there are none; returns the kind of device."""
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL"):
        try:
            preferences.compute_device_type = kind
            preferences.get_devices()
        except (TypeError, AttributeError):
            continue
        gpus = [device for device in preferences.devices if device.type == kind]
        if gpus:
            for device in preferences.devices:
                device.use = device.type == kind
            scene.cycles.device = "GPU"
            return kind
    scene.cycles.device = "CPU"
    return "CPU"


def main() -> None:
    with open("plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    for each in bpy.data.scenes:
        confine(each)
    scene = bpy.context.scene
    render = scene.render
    render.engine = plan["engine"]
    render.resolution_x, render.resolution_y = plan["resolution_x"], plan["resolution_y"]
    render.resolution_percentage = plan["resolution_percentage"]
    render.film_transparent = plan["transparent"]
    render.use_file_extension = True
    render.use_placeholder = False
    render.use_overwrite = True
    image = render.image_settings
    image.file_format = plan["file_format"]
    modes = ("RGBA", "RGB") if plan["transparent"] else ("RGB",)
    for mode in modes:
        try:
            image.color_mode = mode
            break
        except TypeError:
            continue
    device = "GPU"
    if plan["engine"] == "CYCLES":
        scene.cycles.samples = plan["samples"]
        scene.cycles.use_denoising = plan["denoise"]
        device = use_gpus(scene)
    else:
        scene.eevee.taa_render_samples = plan["samples"]
    first = scene.frame_start if plan["frame_start"] is None else plan["frame_start"]
    last = plan["frame_end"]
    if last is None:
        last = scene.frame_end if plan["frame_start"] is None else first
    frames = range(first, last + 1, plan["frame_step"])
    if scene.camera is None:
        send(error="the scene has no camera")
        sys.exit(3)
    send(frames=len(frames), device=device)
    if len(frames) > plan["max_frames"]:
        send(error=f"{len(frames)} frames; at most {plan['max_frames']} are allowed")
        sys.exit(3)
    for number, frame in enumerate(frames):
        scene.frame_set(frame)
        render.filepath = os.path.join(os.getcwd(), "frames", f"{frame:04d}")
        bpy.ops.render.render(write_still=True)
        send(done=number + 1, frame=frame)


try:
    main()
except Exception as error:  # Blender itself would continue and exit with success
    send(broke=type(error).__name__)
    sys.exit(4)
