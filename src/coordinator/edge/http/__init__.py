"""The building blocks of endpoints: bodies, commands, reads, pages, waits, problems. None is an endpoint.

A new code needs a line in `problems` and a page in `error_pages`.
"""
