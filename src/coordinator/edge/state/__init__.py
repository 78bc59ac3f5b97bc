"""State that all requests of an app share: typed reads of the tables, a watch for ends of jobs, counters.

A new read of a table is a method of `tables.read_models`, and its row a class of `tables.rows`. A metric of
requests is counted in `http_metrics`; `routes.metrics` shows it.
"""
