-- name: cancel_waiting
UPDATE task SET status = 'cancelled', finished_at = :now, cancel_requested_at = :now
WHERE id = :id AND status IN ('pending', 'scheduled', 'waiting', 'retrying');

-- name: request_cancel
UPDATE task SET cancel_requested_at = coalesce(cancel_requested_at, :now) WHERE id = :id AND status = 'running';

-- name: seq_of
SELECT seq FROM task WHERE id = ?;

-- name: retry
-- An explicit retry starts over: all retries are available again, the attempts so far stay. It waits for what it needs and
-- is running again itself.
UPDATE task
SET status = iif(EXISTS (SELECT 1 FROM dependency WHERE child = task.seq AND state = 'open'), 'waiting', 'pending'),
    due_at = :now, failures = 0, crashes = 0, finished_at = NULL, cancel_requested_at = NULL, cancelled_by = NULL
WHERE id = :id AND status IN ('completed', 'failed', 'cancelled');

-- name: record_event
INSERT INTO event (task, at, kind, detail) SELECT seq, :now, :kind, :detail FROM task WHERE id = :id;

-- name: pause_queue
INSERT INTO queue (name, paused_at) VALUES (:queue, :now)
ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at WHERE paused_at IS NULL;

-- name: resume_queue
UPDATE queue SET paused_at = NULL WHERE name = :queue AND paused_at IS NOT NULL;

-- name: limit_queue
INSERT INTO queue (name, concurrency, rate, burst, starts, filled_at) VALUES (?1, ?2, ?3, ?4, ?4, ?5)
ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency, rate = excluded.rate, burst = excluded.burst,
                                 starts = excluded.starts, filled_at = excluded.filled_at;

-- name: delete
DELETE FROM task WHERE id = :id AND status IN ('completed', 'failed', 'cancelled');

-- name: delete_finished
-- In batches, so that a large clean-up never holds the write lock for long. Attempts and events go with the task.
DELETE FROM task WHERE seq IN (
    SELECT seq FROM task WHERE finished_at < :before AND status IN ('completed', 'failed', 'cancelled')
        AND NOT EXISTS (SELECT 1 FROM dependency AS d CROSS JOIN task AS c ON c.seq = d.child
                        WHERE d.parent = task.seq AND c.finished_at IS NULL)
    LIMIT :limit
);

-- name: newest_beyond
-- The newest of the finished tasks beyond the number that is kept.
SELECT finished_at, seq FROM task WHERE status = :status AND finished_at IS NOT NULL
ORDER BY finished_at DESC, seq DESC LIMIT 1 OFFSET :rows;

-- name: count_up_to
SELECT count(*) FROM task
WHERE status = :status AND finished_at IS NOT NULL AND (finished_at, seq) <= (:finished_at, :seq);

-- name: has_up_to
SELECT EXISTS (
    SELECT 1 FROM task WHERE status = :status AND finished_at IS NOT NULL AND (finished_at, seq) <= (:finished_at, :seq)
);

-- name: prune
-- What finished first goes first, in batches. Retried meanwhile: it has no finished_at any more and stays; so does what
-- unfinished tasks wait for.
DELETE FROM task WHERE seq IN (
    SELECT seq FROM task
    WHERE status = :status AND finished_at IS NOT NULL AND (finished_at, seq) <= (:finished_at, :seq)
        AND NOT EXISTS (SELECT 1 FROM dependency AS d CROSS JOIN task AS c ON c.seq = d.child
                        WHERE d.parent = task.seq AND c.finished_at IS NULL)
    ORDER BY finished_at, seq LIMIT :limit
);
