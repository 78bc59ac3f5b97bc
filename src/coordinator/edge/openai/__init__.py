"""What the OpenAI API calls the same: each request is a job that a miner runs, and waits for its result.

One file per noun, as there; docs/openai.md says what is supported, exactly. Endpoints raise the problems that
all endpoints raise; `errors` writes them as OpenAI does.
"""

from coordinator.edge.openai import audio, chat, completions, embeddings, images, models

ROUTERS = (
    chat.router,
    completions.router,
    embeddings.router,
    audio.router,
    images.router,
    models.router,
)

__all__ = ["ROUTERS"]
