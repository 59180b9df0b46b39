-- An alert is open until its cause is gone, or somebody has seen to it; when it is raised again, it is open again.
ALTER TABLE alerts ADD COLUMN ended_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN acknowledged_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN acknowledged_by TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN note TEXT NOT NULL DEFAULT '';

-- Those that an operator had decided about said so in their text.
UPDATE alerts SET ended_at = last_at WHERE kind = 'rewound' AND detail = 'Its journal went back; an operator has decided since.';
