"""Money on pages: one party's account, and for those who see all the accounts of everybody."""
