-- What people were mailed last of an alert, as `told` and `told_of` say it of a webhook.
ALTER TABLE alerts ADD COLUMN mailed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN mailed_of INTEGER NOT NULL DEFAULT 0;
-- What is over is nothing to tell to those who are told from now on.
UPDATE alerts SET mailed = CASE WHEN ended_at > 0 THEN 2 ELSE 3 END, mailed_of = last_at WHERE ended_at > 0 OR acknowledged_at > 0;
