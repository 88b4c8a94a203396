-- name: task
SELECT t.seq, t.id, t.name, t.function, t.arguments, t.queue, t.pool, t.priority, t.status, t.submitted_at, t.due_at,
       t.max_retries, t.timeout_us, t.tags, t.attempt, t.failures, t.owner, t.claimed_at, t.cancel_requested_at,
       t.finished_at, p.facts
FROM task t LEFT JOIN progress p ON p.task = t.seq AND p.attempt = t.attempt AND t.status = 'running'
WHERE t.id = ?;

-- name: attempts
SELECT number, outcome, worker, claimed_at, started_at, finished_at, result, error_type, error_message, error_traceback
FROM attempt WHERE task = ? ORDER BY number;

-- name: counts
-- Each branch walks one partial index; the large ones never touch the table.
SELECT 'pending', count(*) FROM task WHERE status = 'pending'
UNION ALL
SELECT status, count(*) FROM task WHERE status IN ('scheduled', 'retrying') GROUP BY status
UNION ALL
SELECT 'running', count(*) FROM task WHERE status = 'running'
UNION ALL
SELECT status, count(*) FROM task WHERE finished_at IS NOT NULL GROUP BY status;

-- name: queues
SELECT name, paused_at FROM queue ORDER BY name;

-- name: unfinished_by_queue
SELECT queue, status, count(*) FROM task WHERE finished_at IS NULL GROUP BY queue, status;

-- name: workers
SELECT w.id, w.pid, w.host, w.started_at, w.slots,
       (SELECT count(*) FROM task WHERE status = 'running' AND owner = w.id)
FROM worker w ORDER BY w.started_at, w.id;

-- name: is_runnable
SELECT EXISTS (SELECT 1 FROM task WHERE status = 'pending')
    OR EXISTS (SELECT 1 FROM task WHERE status IN ('scheduled', 'retrying') AND due_at <= ?);
