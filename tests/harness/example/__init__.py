"""An aggregate that nothing else knows: `quota`, with a command whose decision appends to two streams.

`quota` is what would be a file in `domain/`, `quotas` the handler in `application/commands/`.
"""
