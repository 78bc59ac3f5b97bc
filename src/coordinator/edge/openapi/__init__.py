"""The OpenAPI documents: of the whole edge, and of one service.

Endpoints describe themselves; `document` adds what FastAPI can't describe, such as headers of all answers.
"""
