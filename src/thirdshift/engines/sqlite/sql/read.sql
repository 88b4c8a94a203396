-- name: task
SELECT t.seq, t.id, t.name, t.function, t.arguments, t.queue, t.pool, t.priority, t.status, t.submitted_at, t.due_at,
       t.max_retries, t.timeout_us, t.tags, t.attempt, t.failures, t.owner, t.claimed_at, t.cancel_requested_at,
       t.finished_at, t.stall_timeout_us, t.unique_key, t.cancelled_by, t.limit_key,
       t.schedule_name, t.scheduled_for, p.facts
FROM task t LEFT JOIN progress p ON p.task = t.seq AND p.attempt = t.attempt AND t.status = 'running'
WHERE t.id = ?;

-- name: status
SELECT status FROM task WHERE id = ?;

-- name: statuses
-- All in one row: Python gives up its interpreter lock at every row and has to win it back.
SELECT json_group_object(t.id, t.status) FROM json_each(?) AS wanted CROSS JOIN task AS t ON t.id = wanted.value;

-- name: attempts
-- The texts, which may be long, only where they are wanted.
SELECT a.number, a.outcome, a.worker, a.claimed_at, a.started_at, a.finished_at, a.result, a.error_type, a.error_message,
       a.error_traceback, a.error_fingerprint, a.cpu_us, a.peak_memory_bytes, t.stdout, t.stderr, t.log
FROM attempt a LEFT JOIN trace t ON ?2 AND t.task = a.task AND t.number = a.number
WHERE a.task = ?1 ORDER BY a.number;

-- name: counts
-- Each branch walks one partial index; the large ones never touch the table.
SELECT 'pending', count(*) FROM task WHERE status = 'pending'
UNION ALL
SELECT status, count(*) FROM task WHERE status IN ('scheduled', 'retrying') GROUP BY status
UNION ALL
SELECT 'waiting', count(*) FROM task WHERE status = 'waiting'
UNION ALL
SELECT 'running', count(*) FROM task WHERE status = 'running'
UNION ALL
SELECT status, count(*) FROM task WHERE finished_at IS NOT NULL GROUP BY status;

-- name: queues
SELECT name, paused_at, concurrency, rate, burst FROM queue ORDER BY name;

-- name: unfinished_by_queue
-- Each branch walks one partial index, so finished tasks cost nothing. Only running tasks, which are few, are looked up.
SELECT queue, 'pending', sum(tasks)
FROM (SELECT queue, count(*) AS tasks FROM task WHERE status = 'pending' AND limit_key IS NULL GROUP BY queue
      UNION ALL
      SELECT queue, count(*) FROM task WHERE status = 'pending' AND limit_key IS NOT NULL GROUP BY queue)
GROUP BY queue
UNION ALL
SELECT queue, status, count(*) FROM task WHERE status IN ('scheduled', 'retrying') GROUP BY queue, status
UNION ALL
SELECT queue, 'waiting', count(*) FROM task WHERE status = 'waiting' GROUP BY queue
UNION ALL
SELECT queue, 'running', count(*) FROM task WHERE status = 'running' GROUP BY queue;

-- name: workers
SELECT w.id, w.pid, w.host, w.started_at, w.slots,
       (SELECT count(*) FROM task WHERE status = 'running' AND owner = w.id), w.queues, w.excluded, w.pools
FROM worker w ORDER BY w.started_at, w.id;

-- name: has_work
-- What waits for other tasks does not count: one of those it waits for is in one of the lines below, here or elsewhere, and
-- releases it in the transaction in which it ends.
SELECT EXISTS (SELECT 1 FROM task WHERE status = 'pending' AND limit_key IS NULL AND queue = ?1)
    OR EXISTS (SELECT 1 FROM key_line AS l CROSS JOIN task AS t
               WHERE t.status = 'pending' AND t.limit_key = l.limit_key AND t.pool = l.pool AND t.queue = l.queue
                 AND l.queue = ?1)
    OR EXISTS (SELECT 1 FROM task WHERE status = 'running' AND queue = ?1)
    OR EXISTS (SELECT 1 FROM task WHERE status IN ('scheduled', 'retrying') AND queue = ?1);

-- name: look
-- Is there anything to claim, and when is the next one due? Tasks of limit keys that are used up wake nobody.
SELECT EXISTS (SELECT 1 FROM task WHERE status = 'pending' AND limit_key IS NULL)
       OR EXISTS (SELECT 1 FROM key_room WHERE room > 0)
       OR coalesce(due_at <= ?, 0), due_at
FROM (SELECT min(due_at) AS due_at FROM task WHERE status IN ('scheduled', 'retrying'));
