-- Sealed backups: what they hold, and when one was read back and found whole; zero: never.
CREATE TABLE backups (
    digest BLOB PRIMARY KEY,
    path TEXT NOT NULL,
    bundle_version INTEGER NOT NULL,
    made_at INTEGER NOT NULL,
    proven_at INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Where its last session came from.
ALTER TABLE agents ADD COLUMN address TEXT NOT NULL DEFAULT '';

-- After a restore: agents may hold bundles this server has never seen, until an operator says what the head is.
ALTER TABLE fleet ADD COLUMN head_unconfirmed INTEGER NOT NULL DEFAULT 0;
-- Agents that were removed before the backup was made that this database was made from.
CREATE TABLE removed_before (agent_id BLOB PRIMARY KEY) STRICT;

-- When the fleet was made from a backup: agents enrolled earlier may show their identity records. Zero: it was not.
ALTER TABLE fleet ADD COLUMN restored_at INTEGER NOT NULL DEFAULT 0;
