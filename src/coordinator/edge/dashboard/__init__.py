"""The dashboard: pages that people read, over the projections, the log and the live state."""
