"""The endpoints of the OpenAI API: each request is a job that a miner runs, and waits for its result.

One file per noun of that API; docs/openai.md lists the supported members. Endpoints raise the same problems
as all others; `errors` rewrites them in OpenAI's shape.
"""

from coordinator.edge.openai import audio, chat, completions, embeddings, images, models, rerank, responses

ROUTERS = (
    chat.router,
    completions.router,
    responses.router,
    embeddings.router,
    rerank.router,
    *audio.ROUTERS,
    images.router,
    models.router,
)

__all__ = ["ROUTERS"]
