"""Commands for the operation of a coordinator."""
