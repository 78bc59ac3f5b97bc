-- The trace that a job's event belongs to: offers carry it, and so do the timers' commands.
ALTER TABLE open_work ADD COLUMN traceparent text NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN traceparent text NOT NULL DEFAULT '';
