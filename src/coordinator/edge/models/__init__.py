"""The shapes of what the HTTP edge answers, one file a noun; the command line prints them with `--json`.

Moments are RFC 3339 text in UTC with milliseconds, but for offers, which are the same over AMQP and HTTP.
A newer coordinator may add members; readers skip what they do not know. The answer of a new endpoint is a
class of its noun's file.
"""
