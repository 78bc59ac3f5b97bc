"""The demo: a coordinator and two miners as processes, real jobs, and every receipt verified."""
