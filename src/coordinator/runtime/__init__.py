"""A coordinator process: settings, the adapters of each mode, wiring, and the server."""
