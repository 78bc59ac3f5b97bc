"""Around every endpoint: request ids, access log, keys, signatures, rate limits, unexpected errors.

A header on every answer is added in `access_log`, a check of every request in `authentication`.
"""
