"""Quotas of names: what each name uses, what it may use, and the expiry of what nobody needs any more."""
