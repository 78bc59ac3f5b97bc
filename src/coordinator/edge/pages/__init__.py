"""Pages for people, without a key: the API's reference, and a page for each error code.

A page's files are in `assets`; its router is included in `app`, and has a content security policy of its own.
"""
