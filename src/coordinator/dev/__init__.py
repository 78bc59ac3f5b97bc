"""For trials and tests: private servers, the demo, the generator of `schemas/`."""
