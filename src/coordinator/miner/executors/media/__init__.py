"""Media files and ffmpeg: what a source promises, what was read of it, and what was written."""
