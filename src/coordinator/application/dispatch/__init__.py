"""From queued jobs to offers: the dispatcher, its model of jobs and miners, and the order of work."""
