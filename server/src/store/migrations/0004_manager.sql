-- The line to the Control Manager: settings as saved and as in force, the registration, a departure that is not delivered; JSON.
CREATE TABLE manager_documents (
    name TEXT PRIMARY KEY,
    content TEXT NOT NULL
) STRICT;

-- Of the last call to it: no two have the same.
CREATE TABLE manager_counter (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    counter INTEGER NOT NULL
) STRICT;

-- What it told this server to do. state: 1 in progress, 2 successful, 3 unsuccessful. acted: the command was submitted. reported: the
-- manager has heard how it ended.
CREATE TABLE manager_instructions (
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    instruction BLOB NOT NULL,
    command_id BLOB NOT NULL,
    state INTEGER NOT NULL,
    detail TEXT NOT NULL,
    acted INTEGER NOT NULL DEFAULT 0,
    reported INTEGER NOT NULL DEFAULT 0,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (epoch, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX manager_instructions_open ON manager_instructions (epoch, state, acted, sequence) WHERE reported = 0;
