-- At most so many tasks of one limit key run at once; a task without a key pays nothing for that. How many run is counted
-- from the rows of the running ones, never kept, so no crash can leave it wrong.

ALTER TABLE task ADD COLUMN limit_key TEXT;                            -- NULL: none

-- Tasks without a key stand together, in the order of claims, and those of each key do.
DROP INDEX task_runnable;
CREATE INDEX task_runnable ON task (limit_key, queue, pool, priority DESC, due_at, seq) WHERE status = 'pending';
CREATE INDEX task_key_running ON task (limit_key) WHERE limit_key IS NOT NULL AND status = 'running';

-- Keys of which another number than one may run.
CREATE TABLE key_limit (
    limit_key   TEXT    PRIMARY KEY,
    concurrency INTEGER NOT NULL CHECK (concurrency > 0)
) STRICT, WITHOUT ROWID;

-- The most urgent pending task of each key in each queue and pool: nothing but an extract of the table above, so that a
-- claim steps over a million tasks of a key at once. Only the triggers below write it, whoever changes a task. There is none
-- on INSERT, which would cost every submit: who inserts a task with a key lets it enter by an UPDATE that changes nothing.
CREATE TABLE key_line (
    limit_key TEXT    NOT NULL,
    queue     TEXT    NOT NULL,
    pool      TEXT    NOT NULL,
    priority  INTEGER NOT NULL,
    due_at    INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    PRIMARY KEY (limit_key, queue, pool)
) STRICT, WITHOUT ROWID;
CREATE INDEX key_line_order ON key_line (queue, pool, priority DESC, due_at, seq);

-- A change of status is checked by the same trigger, because calling one costs an update more than what it does.
DROP TRIGGER task_transition;
CREATE TRIGGER task_transition AFTER UPDATE OF status ON task
WHEN (NEW.limit_key IS NOT NULL AND (OLD.status = 'pending' OR NEW.status = 'pending'))
  OR NOT EXISTS (SELECT 1 FROM transition WHERE old = OLD.status AND new = NEW.status)
BEGIN
    SELECT RAISE(ABORT, 'illegal change of a task''s status')
    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE old = OLD.status AND new = NEW.status);
    DELETE FROM key_line WHERE limit_key = NEW.limit_key AND queue = NEW.queue AND pool = NEW.pool;
    INSERT INTO key_line
    SELECT limit_key, queue, pool, priority, due_at, seq FROM task
    WHERE status = 'pending' AND limit_key = NEW.limit_key AND queue = NEW.queue AND pool = NEW.pool
    ORDER BY priority DESC, due_at, seq LIMIT 1;
END;

-- Not for due_at, which every end of an attempt writes: what changes it alone lets the task enter again too.
CREATE TRIGGER task_moves_in_key AFTER UPDATE OF priority, pool, queue, limit_key ON task
WHEN NEW.limit_key IS NOT NULL AND NEW.status = 'pending'
BEGIN
    DELETE FROM key_line WHERE limit_key = NEW.limit_key AND queue = NEW.queue AND pool = NEW.pool;
    INSERT INTO key_line
    SELECT limit_key, queue, pool, priority, due_at, seq FROM task
    WHERE status = 'pending' AND limit_key = NEW.limit_key AND queue = NEW.queue AND pool = NEW.pool
    ORDER BY priority DESC, due_at, seq LIMIT 1;
END;

-- A submit that replaces the holder of its unique key may give it another limit key, queue or pool.
CREATE TRIGGER task_leaves_key AFTER UPDATE OF pool, queue, limit_key ON task
WHEN OLD.limit_key IS NOT NULL AND OLD.status = 'pending'
BEGIN
    DELETE FROM key_line WHERE limit_key = OLD.limit_key AND queue = OLD.queue AND pool = OLD.pool;
    INSERT INTO key_line
    SELECT limit_key, queue, pool, priority, due_at, seq FROM task
    WHERE status = 'pending' AND limit_key = OLD.limit_key AND queue = OLD.queue AND pool = OLD.pool
    ORDER BY priority DESC, due_at, seq LIMIT 1;
END;

CREATE TRIGGER task_is_deleted_from_key AFTER DELETE ON task
WHEN OLD.limit_key IS NOT NULL AND OLD.status = 'pending'
BEGIN
    DELETE FROM key_line WHERE limit_key = OLD.limit_key AND queue = OLD.queue AND pool = OLD.pool;
    INSERT INTO key_line
    SELECT limit_key, queue, pool, priority, due_at, seq FROM task
    WHERE status = 'pending' AND limit_key = OLD.limit_key AND queue = OLD.queue AND pool = OLD.pool
    ORDER BY priority DESC, due_at, seq LIMIT 1;
END;

-- How many more tasks of each line may run.
CREATE VIEW key_room AS
SELECT l.limit_key, l.queue, l.pool, l.priority, l.due_at, l.seq,
       coalesce((SELECT k.concurrency FROM key_limit AS k WHERE k.limit_key = l.limit_key), 1)
       - (SELECT count(*) FROM task AS t WHERE t.limit_key = l.limit_key AND t.status = 'running') AS room
FROM key_line AS l;
