"""Figures: what happened of late, counted from the event feed, and what needs attention."""
