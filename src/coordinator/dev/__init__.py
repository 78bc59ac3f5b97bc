"""For trying out and for tests: private servers, the demo, the generator of `schemas/`."""
