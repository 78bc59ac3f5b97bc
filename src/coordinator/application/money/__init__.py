"""Money: the settlement of ended jobs."""
