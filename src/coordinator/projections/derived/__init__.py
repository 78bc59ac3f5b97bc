"""The followers' own tables, folded again from the log alone: one file each, and a runner."""
