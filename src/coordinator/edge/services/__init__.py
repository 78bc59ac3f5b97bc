"""Well-known kinds of work with typed bodies: each becomes a job of a registered service.

One file a service: its body, its result, and what its work needs. `asking` is what they share.
"""

from fastapi import APIRouter

from coordinator.edge.services import blender, ffmpeg, llm, stable_diffusion, whisper

router = APIRouter(prefix="/services", tags=["services"])
for _service in (whisper, stable_diffusion, llm, ffmpeg, blender):
    router.include_router(_service.router)
