"""The service `text_embedding`."""
