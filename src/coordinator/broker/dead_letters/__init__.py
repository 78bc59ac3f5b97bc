"""Dead letters: read from their queue, and sent again or dropped by an operator."""
