-- The order in which enrolment tokens were made has a column of its own: not every database numbers its rows.
ALTER TABLE enrolment_tokens RENAME TO enrolment_tokens_before;
CREATE TABLE enrolment_tokens (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    token_digest BLOB NOT NULL UNIQUE,
    realm TEXT NOT NULL,
    max_uses INTEGER NOT NULL,
    uses INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    revoked_at INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO enrolment_tokens
    SELECT rowid, token_digest, realm, max_uses, uses, expires_at, created_by, revoked_at
    FROM enrolment_tokens_before ORDER BY rowid;
DROP TABLE enrolment_tokens_before;
