-- Schedules, and the fire times that have come. Any process may tick: the primary key of a fire decides who makes its task.

CREATE TABLE schedule (
    seq       INTEGER PRIMARY KEY,
    id        TEXT    NOT NULL UNIQUE CHECK (length(id) = 32),
    name      TEXT    NOT NULL UNIQUE,
    source    TEXT    NOT NULL,            -- who says that it exists: 'call', 'code', or a file
    rule      TEXT    NOT NULL,            -- a JSON object: thirdshift.core.schedule_store.rule_of
    task      TEXT    NOT NULL,            -- a JSON object: all about its tasks but their call
    arguments BLOB    NOT NULL,            -- thirdshift.core.codec
    revision  INTEGER NOT NULL DEFAULT 0,  -- grows with each change, so that what was planned before it is dropped
    begun_at  INTEGER NOT NULL,            -- intervals are counted from it
    next_at   INTEGER,                     -- NULL: paused, ended, or no fire time is left
    looked_at INTEGER NOT NULL,            -- the moment at which next_at was found: in the future, the clock was set back
    paused_at INTEGER,
    ended_at  INTEGER,
    CHECK (next_at IS NULL OR (paused_at IS NULL AND ended_at IS NULL))
) STRICT;
CREATE INDEX schedule_due ON schedule (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE fire (
    schedule INTEGER NOT NULL REFERENCES schedule (seq) ON DELETE CASCADE,
    nominal  INTEGER NOT NULL,             -- the fire time by the rule, never when it was acted on
    kind     TEXT    NOT NULL CHECK (kind = 'due' OR kind = 'manual'),
    at       INTEGER NOT NULL,             -- when it was acted on
    task     TEXT,                         -- the task's id; NULL: none was made, another one was unfinished
    PRIMARY KEY (schedule, nominal, kind)
) STRICT, WITHOUT ROWID;

-- The id of the schedule that made a task. Only unfinished ones are indexed, so other tasks are in no index for it.
ALTER TABLE task ADD COLUMN schedule TEXT;
CREATE INDEX task_of_schedule ON task (schedule) WHERE schedule IS NOT NULL AND finished_at IS NULL;
