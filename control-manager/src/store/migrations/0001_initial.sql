CREATE TABLE manager (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    manager_id BLOB NOT NULL,
    name TEXT NOT NULL
) STRICT;

CREATE TABLE admin_tokens (
    token_digest BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE registration_tokens (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    token_digest BLOB NOT NULL UNIQUE,
    verifier BLOB NOT NULL,
    max_uses INTEGER NOT NULL,
    uses INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    revoked_at INTEGER NOT NULL DEFAULT 0
) STRICT;

-- standing: 1 waits to be let in, 2 let in, 3 rejected, 4 left. One that left is listed nowhere; it stays for a while, so that its
-- old calls cannot be said again.
CREATE TABLE entities (
    entity_id BLOB PRIMARY KEY,
    public_key BLOB NOT NULL UNIQUE,
    registration BLOB NOT NULL,
    display_name TEXT NOT NULL,
    standing INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    counter INTEGER NOT NULL,
    sequence INTEGER NOT NULL DEFAULT 0,
    token_digest BLOB,
    registered_at INTEGER NOT NULL,
    last_contact INTEGER NOT NULL
) STRICT;
CREATE INDEX entities_not_in ON entities (standing) WHERE standing <> 2;
CREATE INDEX entities_by_name ON entities (display_name, entity_id);

-- task: writ.manager.v1.Instruction without what differs from entity to entity.
CREATE TABLE instructions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    instruction_id BLOB NOT NULL UNIQUE,
    request_digest BLOB NOT NULL,
    kind TEXT NOT NULL,
    task BLOB NOT NULL,
    issued_by TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ends_at INTEGER NOT NULL
) STRICT;

CREATE INDEX instructions_by_end ON instructions (ends_at);

-- state: 1 waits, 2 taken, 3 successful, 4 unsuccessful, 5 timed out, which a late outcome still changes.
CREATE TABLE deliveries (
    instruction INTEGER NOT NULL REFERENCES instructions (sequence),
    entity_id BLOB NOT NULL,
    display_name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    state INTEGER NOT NULL,
    detail TEXT NOT NULL DEFAULT '',
    command_id BLOB,
    agents INTEGER NOT NULL DEFAULT 0,
    agents_done INTEGER NOT NULL DEFAULT 0,
    agents_failed INTEGER NOT NULL DEFAULT 0,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (instruction, entity_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_of_entity ON deliveries (entity_id, epoch, sequence);
CREATE INDEX deliveries_open ON deliveries (entity_id) WHERE state < 3;
