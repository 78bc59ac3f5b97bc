"""Read models: derived from the log, one file each; a rebuild gives the same rows."""
