"""llama.cpp's HTTP server in a process: `python -m tests.harness.llama_server '<json>'`.

`{"model": path, "name", "port", "embedding"?: true, "rerank"?: true, "key"?, "template"?}`. It is the real
server, from xllamacpp.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

import xllamacpp

from coordinator.runtime.process.parent_watch import stop_with_parent


def main() -> None:
    stop_with_parent()
    given = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = given["model"]
    params.model_alias = {given["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = given["port"]
    params.n_ctx = 8192
    params.n_parallel = 2
    params.cpuparams.n_threads = 1
    params.endpoint_slots = True
    params.warmup = False
    if given.get("key"):
        params.api_keys = [given["key"]]
    if given.get("template"):
        params.chat_template = given["template"]
    if given.get("embedding"):
        # Two texts in one batch changed each other's mean with this build: one at a time.
        params.n_parallel = 1
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if given.get("rerank"):
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()


if __name__ == "__main__":
    main()
