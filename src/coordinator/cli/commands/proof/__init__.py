"""Commands of auditors: receipts, passports, checkpoints, witnesses, and the audit of a whole log."""
