"""The service `video_transcoding`."""
