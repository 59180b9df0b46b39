-- What people were mailed last of an alert, as `told` and `told_of` say it of a webhook.
ALTER TABLE alerts ADD COLUMN mailed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN mailed_of INTEGER NOT NULL DEFAULT 0;
