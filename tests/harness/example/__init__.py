"""An aggregate that nothing else knows: `budget`, with a command whose decision appends to two streams.

`budget` is what would be a file in `domain/`, `budgets` the handler in `application/commands/`.
"""
