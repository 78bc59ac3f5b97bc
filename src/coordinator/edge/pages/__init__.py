"""Pages for people, without a key: the API's reference, and a page for each error code."""
