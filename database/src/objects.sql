CREATE TABLE objects (
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    source TEXT NOT NULL,
    remedy TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    note TEXT NOT NULL,
    added_by TEXT NOT NULL,
    added_at INTEGER NOT NULL,
    PRIMARY KEY (kind, value, source)
) STRICT;

CREATE TABLE object_exceptions (
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    note TEXT NOT NULL,
    added_by TEXT NOT NULL,
    added_at INTEGER NOT NULL,
    PRIMARY KEY (kind, value)
) STRICT;
