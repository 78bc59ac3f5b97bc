"""Services that we know from inside: one file each, with the models of payload and result, and the needs.

To add one: 1. `services/<name>.py`: a Payload, a Result and `SERVICE`; 2. `miner/executors/<name>.py`, with
`payload_of(SERVICE, work)` and the Result's `document()`; 3. an entry in `catalog/` that names the file (its
`module`) and has examples; 4. an entry point in pyproject.toml. The schemas follow from the models; a typed
HTTP endpoint, where there should be one, is a `typed_route` in `edge/services`.
"""
