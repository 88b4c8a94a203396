-- What a worker takes stands in its row, so that anybody can say why a task does not run; and what lists and counts the
-- queues walks partial indexes only, so that finished tasks cost it nothing.

ALTER TABLE worker ADD COLUMN queues   TEXT;                       -- a JSON array; NULL: all but the excluded ones
ALTER TABLE worker ADD COLUMN excluded TEXT NOT NULL DEFAULT '[]'; -- a JSON array
ALTER TABLE worker ADD COLUMN pools    TEXT NOT NULL DEFAULT '{}'; -- a JSON object: slots of each pool; {}: not known

-- Promotion walks it by its first column as before; with the others a count by queue needs nothing else.
DROP INDEX task_due;
CREATE INDEX task_due ON task (due_at, status, queue) WHERE status IN ('scheduled', 'retrying');
-- Costs nothing while no task waits for another.
CREATE INDEX task_waiting ON task (queue) WHERE status = 'waiting';

-- How often in a row the task's worker died while it ran, without progress in between.
ALTER TABLE task ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
