"""Facts about media that several executors need."""
