"""HTTP between machines: proxies, addresses that are checked, bounded answers, signed requests."""
