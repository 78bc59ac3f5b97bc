"""A module for each subcommand of `coordinator`."""
