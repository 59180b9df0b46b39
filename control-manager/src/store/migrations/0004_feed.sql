-- What of all objects acts, as entities fetch it, with the version that last changed each. What is gone stays for a while, so that an
-- entity that holds an older version is told so.
CREATE TABLE object_feed (
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    remedy TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    note TEXT NOT NULL,
    version INTEGER NOT NULL,
    is_gone INTEGER NOT NULL,
    PRIMARY KEY (kind, value)
) STRICT;

CREATE INDEX object_feed_by_version ON object_feed (version);

-- since: the oldest version of which it is still known what has changed since.
CREATE TABLE object_feed_state (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    version INTEGER NOT NULL,
    since INTEGER NOT NULL,
    list BLOB NOT NULL
) STRICT;

-- Entities that are given no key to fetch objects by, whatever they are called next.
CREATE TABLE revoked_subscriptions (
    entity_key BLOB PRIMARY KEY,
    revoked_at INTEGER NOT NULL
) STRICT;

-- Which key fetches objects for an entity.
CREATE TABLE subscriptions (
    entity_id BLOB PRIMARY KEY,
    public_key BLOB NOT NULL UNIQUE,
    counter INTEGER NOT NULL DEFAULT 0, -- of the last call by that key
    issued_at INTEGER NOT NULL,
    held INTEGER NOT NULL DEFAULT 0,
    fetched_at INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What each indicator of the sandbox names: an object of several stays until the last of them is revoked or names it no more.
CREATE TABLE sandbox_indicators (
    indicator TEXT NOT NULL,
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    remedy TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    note TEXT NOT NULL,
    seen INTEGER NOT NULL, -- the reading in which it was there last
    PRIMARY KEY (indicator, kind, value)
) STRICT;

CREATE INDEX sandbox_indicators_by_value ON sandbox_indicators (kind, value);
CREATE INDEX sandbox_indicators_by_seen ON sandbox_indicators (seen);

CREATE TABLE sandbox (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    collection TEXT NOT NULL,
    added_after TEXT NOT NULL,
    reading INTEGER NOT NULL, -- the number of the last one
    asked_at INTEGER NOT NULL,
    read_at INTEGER NOT NULL,
    whole_at INTEGER NOT NULL, -- the last time it was read from its beginning
    error TEXT NOT NULL
) STRICT;

CREATE TABLE sandbox_notes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    indicator TEXT NOT NULL,
    name TEXT NOT NULL,
    why TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

CREATE INDEX sandbox_notes_by_indicator ON sandbox_notes (indicator);
