CREATE TABLE fleet (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    fleet_id BLOB NOT NULL,
    name TEXT NOT NULL
) STRICT;

CREATE TABLE bundles (
    version INTEGER NOT NULL,
    digest BLOB PRIMARY KEY,
    envelope BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX bundles_by_version ON bundles (version);

CREATE TABLE admin_tokens (
    token_digest BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE enrolment_tokens (
    token_digest BLOB PRIMARY KEY,
    realm TEXT NOT NULL,
    max_uses INTEGER NOT NULL,
    uses INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL,
    created_by TEXT NOT NULL
) STRICT;

CREATE TABLE agents (
    agent_id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    realm TEXT NOT NULL,
    public_key BLOB NOT NULL UNIQUE,
    token_digest BLOB NOT NULL,
    identity_record BLOB NOT NULL,
    enrolled_at INTEGER NOT NULL,
    last_contact INTEGER NOT NULL DEFAULT 0,
    agent_version TEXT NOT NULL,
    bundle_version INTEGER NOT NULL DEFAULT 0,
    bundle_digest BLOB,
    journal_id BLOB,
    journal_counter INTEGER NOT NULL DEFAULT 0,
    actions TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX agents_by_name ON agents (name);

CREATE TABLE commands (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    command_id BLOB NOT NULL UNIQUE,
    digest BLOB NOT NULL,
    request_digest BLOB NOT NULL,
    envelope BLOB NOT NULL,
    action TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX commands_by_end ON commands (expires_at);

-- state: 0 queued, 1 sent, 2 done, 3 failed, 4 refused. "Expired" is derived from the command's expires_at.
CREATE TABLE targets (
    command INTEGER NOT NULL REFERENCES commands (sequence),
    place INTEGER NOT NULL,
    agent_id BLOB NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (command, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX targets_waiting ON targets (agent_id, command) WHERE state < 2;
CREATE INDEX targets_of_agent ON targets (command, agent_id);

-- The first receipt of a command and agent is the one that counts; others are evidence.
CREATE TABLE receipts (
    command INTEGER NOT NULL REFERENCES commands (sequence),
    agent_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    envelope BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (command, agent_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE evidence (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    agent_id BLOB NOT NULL,
    kind TEXT NOT NULL,
    envelope BLOB NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;
CREATE INDEX evidence_of_agent ON evidence (agent_id, kind, sequence);

-- The latest time this server signed with, so that a clock that went back while it was off is noticed.
CREATE TABLE clock (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    signed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE alerts (
    alert_id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    code TEXT NOT NULL,
    agent_id BLOB NOT NULL,
    count INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    detail TEXT NOT NULL,
    UNIQUE (kind, code, agent_id)
) STRICT;
