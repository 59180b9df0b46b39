-- Trust bundles of another chain of this fleet, which agents handed over and which were verified: two servers minted at the same time.
CREATE TABLE forks (
    digest BLOB PRIMARY KEY,
    version INTEGER NOT NULL,
    envelope BLOB NOT NULL
) STRICT;
