"""Parts of the server that `runtime.process.http_server` runs: limits on headers, refusals of WebSockets.

A limit that applies before an endpoint is reached belongs here.
"""
