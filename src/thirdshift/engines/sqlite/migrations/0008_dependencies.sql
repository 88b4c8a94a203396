-- Tasks that wait for others. A row stands for one that waits (child) and one that it waits for (parent). Nothing here is
-- written while no task waits, and what finishes then costs one look at an empty index.

CREATE TABLE dependency (
    parent INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    child  INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    need   TEXT    NOT NULL CHECK (need = 'success' OR need = 'any'),
    -- open: the parent is unfinished. met: it completed, or finished and any end will do. failed: it finished otherwise.
    state  TEXT    NOT NULL CHECK (state = 'open' OR state = 'met' OR state = 'failed'),
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;
-- What decides whether a child may run: a probe, however many parents it has.
CREATE INDEX dependency_child ON dependency (child, state);
-- What is looked at when tasks have finished.
CREATE INDEX dependency_open ON dependency (parent) WHERE state = 'open';

-- The parent whose end cancelled the task: retried, it opens it again. NULL: somebody else cancelled it, if anybody did.
ALTER TABLE task ADD COLUMN cancelled_by TEXT;

-- A child may need the result of its parent, and goes on when that is retried.
CREATE TRIGGER task_needed_stays BEFORE DELETE ON task
WHEN EXISTS (SELECT 1 FROM dependency AS d CROSS JOIN task AS c ON c.seq = d.child
             WHERE d.parent = OLD.seq AND c.finished_at IS NULL)
BEGIN
    SELECT RAISE(ABORT, 'a task that an unfinished one waits for cannot be deleted');
END;

-- A retry waits again for parents that run again, and opens what its failing had cancelled; a replacement may be one that
-- waits.
INSERT INTO transition (old, new) VALUES
    ('completed', 'waiting'), ('failed', 'waiting'), ('cancelled', 'waiting'),
    ('pending', 'waiting'), ('scheduled', 'waiting'), ('retrying', 'waiting');

-- Two more kinds of event, so the table is made anew; its numbers stay.
DROP VIEW history;
CREATE TABLE event_with_parents (
    seq    INTEGER PRIMARY KEY,
    task   INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    at     INTEGER NOT NULL,
    kind   TEXT    NOT NULL CHECK (kind IN ('cancel_requested', 'cancelled', 'retried', 'rescued', 'parent_failed',
                                            'reopened')),
    detail TEXT                                       -- the worker that died, or the parent's id
) STRICT;
INSERT INTO event_with_parents SELECT seq, task, at, kind, detail FROM event;
DROP TABLE event;
ALTER TABLE event_with_parents RENAME TO event;
CREATE INDEX event_task ON event (task);

CREATE VIEW history AS
SELECT seq AS task, submitted_at AS at, 0 AS attempt, 'submitted' AS what, NULL AS detail FROM task
UNION ALL
SELECT task, coalesce(started_at, claimed_at), number, 'started', worker FROM attempt
UNION ALL
SELECT task, finished_at, number, outcome, error_message FROM attempt
UNION ALL
SELECT task, at, NULL, kind, detail FROM event;
