"""HEAD is answered wherever GET is, as GET would be, without a body."""

from __future__ import annotations

import re

from tests.unit.edge_fakes import ALICE, JOB, an_app, browsing

STREAMS = {"/v1/events", "/v1/jobs/{job_id}/events", "/v1/jobs/{job_id}/progress"}
"""A GET of these has no end here; the tests of the server ask a real one."""


async def test_head_has_the_status_and_headers_of_get() -> None:
    """For every endpoint with GET, with a key and without; the server itself leaves out the body."""
    app = an_app()
    paths = [path for path, item in app.openapi()["paths"].items() if "get" in item]
    assert len(paths) > 30
    async with browsing(app) as http:
        for path in sorted(set(paths) - STREAMS):
            url = re.sub(r"\{[^}]*\}", str(JOB), path)
            for headers in ({}, {"X-Api-Key": ALICE}):
                get = await http.get(url, headers=headers)
                head = await http.head(url, headers=headers)
                assert get.status_code == head.status_code, path
                varying = {
                    "x-request-id",
                    "date",
                    "ratelimit-remaining",
                    "x-ratelimit-remaining",
                    "ratelimit",
                }
                expected = {k: v for k, v in get.headers.items() if k not in varying}
                assert expected == {k: v for k, v in head.headers.items() if k not in varying}, path


async def test_other_methods_name_head_and_leave_no_trace_of_it() -> None:
    """`Allow` lists HEAD beside GET; the OpenAPI document describes GET alone."""
    app = an_app()
    async with browsing(app) as http:
        answer = await http.delete("/health")
        nothing = await http.head("/v1/nothing", headers={"X-Api-Key": ALICE})
    assert (405, "GET, HEAD") == (answer.status_code, answer.headers["allow"])
    assert 404 == nothing.status_code
    assert "head" not in app.openapi()["paths"]["/health"]
