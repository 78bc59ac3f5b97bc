"""The service `image_processing`."""
