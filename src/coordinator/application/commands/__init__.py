"""From a message to events: parsing, preparation, group commit, answers."""
