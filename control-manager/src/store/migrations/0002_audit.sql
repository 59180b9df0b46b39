-- entry: writ.admin.v1.AuditEntry as encoded; hash: SHA-256 of the hash before it and the entry.
CREATE TABLE audit (
    log INTEGER NOT NULL, -- 0: changes, 1: looks and what was denied, 2: calls that asked for a change
    sequence INTEGER NOT NULL,
    entry BLOB NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (log, sequence)
) STRICT, WITHOUT ROWID;
