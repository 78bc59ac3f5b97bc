"""From a request to its endpoint: what is fixed for a route is found out at the start, not at each request.

FastAPI describes the routes, and answers whatever is not answered directly here.
"""
