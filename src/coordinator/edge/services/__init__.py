"""Typed endpoints of well-known services: each request becomes a job of a registered service.

The bodies and results are models of `coordinator.services`.
"""

from typing import Final

from fastapi import APIRouter

from coordinator.edge.services import llm_stream
from coordinator.edge.services.typed_route import typed_route
from coordinator.services import (
    image_generation,
    llm_inference,
    rendering_3d,
    speech_recognition,
    video_transcoding,
)

router = APIRouter(prefix="/services", tags=["services"])
_SPEECH: Final = {"audio_url": "https://example.com/speech.mp3", "model": "small"}

typed_route(
    router,
    "/whisper/transcribe",
    speech_recognition.SpeechPayload,
    speech_recognition.SERVICE,
    name="transcribe",
    summary="Transcribe speech",
    example={**_SPEECH, "language": "en"},
)
typed_route(
    router,
    "/whisper/translate",
    speech_recognition.Translate,
    speech_recognition.SERVICE,
    name="translate",
    summary="Translate speech into English",
    example={**_SPEECH, "language": "de"},
)
typed_route(
    router,
    "/stable-diffusion/generate",
    image_generation.TextToImage,
    image_generation.SERVICE,
    name="generate_image",
    summary="Generate images from a text",
    example={"prompt": "a lighthouse at dusk, oil painting"},
)
typed_route(
    router,
    "/stable-diffusion/img2img",
    image_generation.ImageToImage,
    image_generation.SERVICE,
    name="image_to_image",
    summary="Generate images from an image and a text",
    example={"prompt": "the same house in winter", "image_url": "https://example.com/house.png"},
)
typed_route(
    router,
    "/llm/inference",
    llm_inference.Inference,
    llm_inference.SERVICE,
    name="infer",
    summary="Generate text with a language model",
    example={"model": "mistral-7b", "prompt": "Three uses for a retired mining rig:"},
)
router.include_router(llm_stream.router)
typed_route(
    router,
    "/ffmpeg/transcode",
    video_transcoding.TranscodeMedia,
    video_transcoding.SERVICE,
    name="transcode",
    summary="Transcode a video or audio file",
    example={"input_url": "https://example.com/clip.mov", "codec": "h265", "resolution": "1280x720"},
)
typed_route(
    router,
    "/blender/render",
    rendering_3d.RenderPayload,
    rendering_3d.SERVICE,
    name="render",
    summary="Render a Blender file",
    example={"blend_file_url": "https://example.com/scene.blend", "samples": 64, "frame_start": 1},
)
