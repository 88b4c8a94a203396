-- name: place
SELECT seq, status, function, queue, pool, priority, due_at, attempt, failures, max_retries, timeout_us, owner, claimed_at,
       cancel_requested_at, finished_at, cancelled_by, limit_key
FROM task WHERE id = ?;

-- name: cause_of_cancellation
-- The first of the tasks that were cancelled one for another, the one whose own end it was.
WITH RECURSIVE up (id, depth) AS (
    SELECT ?1, 0
    UNION ALL
    SELECT t.cancelled_by, up.depth + 1 FROM up CROSS JOIN task AS t ON t.id = up.id WHERE t.cancelled_by IS NOT NULL
)
SELECT t.id, t.name, t.status FROM up CROSS JOIN task AS t ON t.id = up.id ORDER BY up.depth DESC LIMIT 1;

-- name: last_attempt
SELECT error_type, error_message, (SELECT count(*) FROM attempt WHERE task = ?1)
FROM attempt WHERE task = ?1 ORDER BY number DESC LIMIT 1;

-- name: busy_slots
SELECT count(*) FROM task WHERE status = 'running' AND owner = ? AND pool = ?;

-- name: count_before
-- Counts in the order of claims, and only to the limit: each branch walks a piece of task_runnable. Of other limit keys
-- those count that may run more, by their first task.
SELECT count(*) FROM (
    SELECT 1 FROM task WHERE status = 'pending' AND limit_key IS NULL AND queue = :queue AND pool = :pool
        AND priority > :priority
    UNION ALL
    SELECT 1 FROM task WHERE status = 'pending' AND limit_key IS NULL AND queue = :queue AND pool = :pool
        AND priority = :priority AND due_at < :due_at
    UNION ALL
    SELECT 1 FROM task WHERE status = 'pending' AND limit_key IS NULL AND queue = :queue AND pool = :pool
        AND priority = :priority AND due_at = :due_at AND seq < :seq
    UNION ALL
    SELECT 1 FROM task WHERE status = 'pending' AND limit_key = :key AND queue = :queue AND pool = :pool
        AND priority > :priority
    UNION ALL
    SELECT 1 FROM task WHERE status = 'pending' AND limit_key = :key AND queue = :queue AND pool = :pool
        AND priority = :priority AND due_at < :due_at
    UNION ALL
    SELECT 1 FROM task WHERE status = 'pending' AND limit_key = :key AND queue = :queue AND pool = :pool
        AND priority = :priority AND due_at = :due_at AND seq < :seq
    UNION ALL
    SELECT 1 FROM key_room WHERE queue = :queue AND pool = :pool AND limit_key IS NOT :key AND room > 0
        AND (priority > :priority OR priority = :priority AND (due_at, seq) < (:due_at, :seq))
    LIMIT :limit
);
