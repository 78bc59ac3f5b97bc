"""The service `audio_processing`."""
