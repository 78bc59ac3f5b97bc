"""Commands about jobs: their handler, and the steps of its preparation."""
