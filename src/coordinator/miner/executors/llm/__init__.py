"""The service `llm_inference`."""
