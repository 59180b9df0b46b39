-- How commands with a rollout reach their agents. `released` says how many of the audience were let obey by `envelope`, a signed release.
CREATE TABLE rollouts (
    command INTEGER PRIMARY KEY REFERENCES commands (sequence),
    seed INTEGER NOT NULL,
    canary INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    pause_ms INTEGER NOT NULL,
    max_failures INTEGER NOT NULL,
    rate INTEGER NOT NULL,
    window TEXT NOT NULL,
    start_at INTEGER NOT NULL,
    patience_ms INTEGER NOT NULL,
    state INTEGER NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    wave INTEGER NOT NULL DEFAULT 0,
    released INTEGER NOT NULL DEFAULT 0,
    wave_ended_at INTEGER NOT NULL DEFAULT 0,
    forgiven INTEGER NOT NULL DEFAULT 0,
    envelope BLOB NOT NULL DEFAULT x''
) STRICT;

-- Commands by the last digits of their ids, which people type: the first digits are the time, and many have the same.
CREATE INDEX commands_by_tail ON commands (substr(command_id, 13));

-- Which commands failed on some agent.
CREATE INDEX targets_failed ON targets (command) WHERE state IN (3, 4);
