"""The service `3d_rendering`."""
