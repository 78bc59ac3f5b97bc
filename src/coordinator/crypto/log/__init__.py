"""A log that anybody can check: leaves, tiles, signed notes and checkpoints, in the forms of C2SP."""
