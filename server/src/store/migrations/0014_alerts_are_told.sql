-- What a webhook was told last of an alert: 0 nothing, 1 that it is open, 2 that it ended, 3 that somebody has seen to it; and
-- when it had been raised last then.
ALTER TABLE alerts ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN told_of INTEGER NOT NULL DEFAULT 0;
