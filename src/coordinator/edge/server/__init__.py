"""Parts of the HTTP server, which `runtime.server` runs: limits on headers, refusals of WebSockets.

A limit that applies before an endpoint is reached belongs here.
"""
