-- The attempts that ended without a result, so that a retry goes elsewhere: "failed:rig lost:node@other".
ALTER TABLE open_work ADD COLUMN tried text NOT NULL DEFAULT '';
CREATE INDEX retried_work ON open_work (position) WHERE tried <> '' AND miner_id IS NULL;

-- The dispatcher's own: what a principal's miners did of late for a service, and the slots that it has earned.
CREATE TABLE standings (
    principal text NOT NULL,
    service text NOT NULL,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    lost bigint NOT NULL,
    too_slow bigint NOT NULL,
    released bigint NOT NULL,
    unclaimed bigint NOT NULL,
    slots bigint NOT NULL,
    streak bigint NOT NULL,
    quarantines bigint NOT NULL,
    since_bad bigint NOT NULL,
    quarantine text NOT NULL,
    reason text NOT NULL,
    usual_ms bigint NOT NULL,
    recent_json text NOT NULL,
    PRIMARY KEY (principal, service)
);
