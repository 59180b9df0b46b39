-- What selectors look at. source: 0 the identity record, 1 an operator (a label), 2 the agent itself (a fact).
CREATE TABLE attributes (
    agent_id BLOB NOT NULL REFERENCES agents (agent_id),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    source INTEGER NOT NULL,
    PRIMARY KEY (agent_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX attributes_by_value ON attributes (name, value, agent_id);
INSERT INTO attributes SELECT agent_id, 'name', name, 0 FROM agents;
INSERT INTO attributes SELECT agent_id, 'realm', realm, 0 FROM agents;

ALTER TABLE agents ADD COLUMN reported_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN settings_revision INTEGER NOT NULL DEFAULT 0;
-- Why nothing is sent to it until an operator decides; empty: nothing is held.
ALTER TABLE agents ADD COLUMN held TEXT NOT NULL DEFAULT '';
ALTER TABLE agents ADD COLUMN removed_at INTEGER NOT NULL DEFAULT 0;
-- What its last session wrote into its journal.
ALTER TABLE agents ADD COLUMN journal_mark BLOB;
-- It is told to refuse what was issued earlier.
ALTER TABLE agents ADD COLUMN commands_from INTEGER NOT NULL DEFAULT 0;
-- When an operator last decided about its journals.
ALTER TABLE agents ADD COLUMN approved_at INTEGER NOT NULL DEFAULT 0;

-- Journals an agent has shown, so that one that comes back to an earlier one is noticed.
CREATE TABLE journals (
    agent_id BLOB NOT NULL REFERENCES agents (agent_id),
    journal_id BLOB NOT NULL,
    first_at INTEGER NOT NULL,
    PRIMARY KEY (agent_id, journal_id)
) STRICT, WITHOUT ROWID;
INSERT INTO journals SELECT agent_id, journal_id, last_contact FROM agents WHERE journal_id IS NOT NULL;

-- target state 5: cancelled before it was sent.
ALTER TABLE commands ADD COLUMN cancelled_at INTEGER NOT NULL DEFAULT 0;

ALTER TABLE admin_tokens ADD COLUMN revoked_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE enrolment_tokens ADD COLUMN revoked_at INTEGER NOT NULL DEFAULT 0;

-- entry: writ.admin.v1.AuditEntry as encoded; hash: SHA-256 of the hash before it and the entry.
CREATE TABLE audit (
    log INTEGER NOT NULL, -- 0: changes, 1: looks and what was denied
    sequence INTEGER NOT NULL,
    entry BLOB NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (log, sequence)
) STRICT, WITHOUT ROWID;
