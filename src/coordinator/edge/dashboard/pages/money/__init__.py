"""The pages about money: one's own account, and the accounts of everybody."""
