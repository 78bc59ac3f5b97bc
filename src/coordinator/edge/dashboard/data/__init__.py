"""The content of the dashboard's pages, as typed data: one module per page, without HTML.

Each function takes the edge's context and the viewer, enforces what this viewer may see and do (Refusal
otherwise), and returns frozen values. Moments are Unix milliseconds, spans are seconds. Names, messages and
payloads in them come from strangers: a page escapes them.
"""
