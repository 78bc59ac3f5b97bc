"""From queued jobs to offers: the dispatcher, what it knows of jobs and miners, and the order of work."""
