"""The processes of `coordinator serve --edges N`: the core, N edge processes, and their parent."""
