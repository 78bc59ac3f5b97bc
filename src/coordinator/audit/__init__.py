"""The auditor: replays a log from its stored bytes, and names the first event where anything differs.

It trusts nobody: of the coordinator's code it uses the schemas of events and the cryptography, and nothing of
what decides, appends or projects. What it expects is written here a second time.
"""
