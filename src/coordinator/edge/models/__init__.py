"""The models of the HTTP edge's answers, one file per noun; the command line prints them with `--json`.

Moments are RFC 3339 text in UTC with milliseconds, except in offers, which are the same over AMQP and HTTP.
A newer coordinator may add members; readers skip unknown members. The answer of a new endpoint is a class of
its noun's file.
"""
