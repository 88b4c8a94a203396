-- name: place
SELECT seq, status, function, queue, pool, priority, due_at, attempt, failures, max_retries, timeout_us, owner, claimed_at,
       cancel_requested_at, finished_at
FROM task WHERE id = ?;

-- name: last_attempt
SELECT error_type, error_message, (SELECT count(*) FROM attempt WHERE task = ?1)
FROM attempt WHERE task = ?1 ORDER BY number DESC LIMIT 1;

-- name: busy_slots
SELECT count(*) FROM task WHERE status = 'running' AND owner = ? AND pool = ?;

-- name: count_before
-- Counts in the order of claims, and only to the limit: each branch walks a piece of task_runnable.
SELECT count(*) FROM (
    SELECT 1 FROM task WHERE status = 'pending' AND queue = :queue AND pool = :pool AND priority > :priority
    UNION ALL
    SELECT 1 FROM task WHERE status = 'pending' AND queue = :queue AND pool = :pool AND priority = :priority
        AND due_at < :due_at
    UNION ALL
    SELECT 1 FROM task WHERE status = 'pending' AND queue = :queue AND pool = :pool AND priority = :priority
        AND due_at = :due_at AND seq < :seq
    LIMIT :limit
);
