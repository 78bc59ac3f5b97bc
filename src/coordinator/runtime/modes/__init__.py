"""The adapters of each mode; a mode is what a coordinator keeps its log and its queues in."""
