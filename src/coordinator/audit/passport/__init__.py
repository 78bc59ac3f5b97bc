"""The verification of a job's passport: offline, with public keys alone, by the rules of the auditor."""
