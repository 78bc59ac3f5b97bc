"""Before and after every endpoint: request ids, access log, keys, signatures, rate limits, counters."""
