-- A unique key belongs to the whole store. The index lets one unfinished task have it; a task without a key is not in it.

ALTER TABLE task ADD COLUMN unique_key TEXT;                          -- NULL: none; a finished task keeps it, to be shown
CREATE UNIQUE INDEX task_unique_key ON task (unique_key) WHERE unique_key IS NOT NULL AND finished_at IS NULL;

-- Keys that are held for a period, also after their task has finished.
CREATE TABLE held_key (
    key        TEXT    PRIMARY KEY,
    holder     TEXT    NOT NULL,                                      -- the task's id: it may be deleted before the period ends
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX held_key_expiry ON held_key (expires_at);

-- A submit that replaces the holder of its key may put it off.
INSERT INTO transition (old, new) VALUES ('pending', 'scheduled'), ('retrying', 'scheduled');
