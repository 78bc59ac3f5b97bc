"""The adapters of each mode; the mode decides where log and queues are kept."""
