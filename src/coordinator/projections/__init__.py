"""Read models: derived from the log, one file each, thrown away and rebuilt at will."""
