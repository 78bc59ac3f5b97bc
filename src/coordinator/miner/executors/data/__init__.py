"""The service `data_processing`."""
