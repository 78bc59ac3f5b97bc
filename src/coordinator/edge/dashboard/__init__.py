"""The dashboard: pages for people, made on the server, from the projections and the live streams.

`pages` has a module for each page, `data` what the pages show, `templates` and `static` how. The pages of
one process share their computations (`broadcasts`): however many are open, a change is computed once.
"""
