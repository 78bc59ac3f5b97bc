"""A coordinator as a process: settings, the adapters of each mode, wiring, and the server that runs it."""
