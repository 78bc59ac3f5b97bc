"""What endpoints are made of: bodies, commands, reads, pages, waits, problems. None of them is an endpoint.

A new way to be refused is a line in `problems`; its page is in `error_pages`.
"""
