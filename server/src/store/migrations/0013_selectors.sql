-- Selectors that operators saved under a name.
CREATE TABLE selectors (
    name TEXT PRIMARY KEY,
    selector TEXT NOT NULL,
    saved_by TEXT NOT NULL,
    saved_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
