-- How many commands its journal ever admitted, as it said at its last contact or announced since.
ALTER TABLE agents ADD COLUMN journal_admissions INTEGER NOT NULL DEFAULT 0;
