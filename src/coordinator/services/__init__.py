"""Services with models of payload, result and needs; one file each.

To add one: 1. `services/<name>.py`: a Payload, a Result and `SERVICE`; 2. `miner/executors/<name>.py`, with
`payload_of(SERVICE, work)` and the Result's `document()`; 3. an entry in `catalog/` that names the file (its
`module`) and has examples; 4. an entry point in pyproject.toml. The models give the schemas. A typed HTTP
endpoint is a `typed_route` in `edge/services`.
"""
