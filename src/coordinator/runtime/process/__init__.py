"""The operating-system process of a program: its loop, memory, descriptors, logs, and its parent."""
