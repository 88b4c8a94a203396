-- name: submit
-- A task that is already there (same id) stays as it is: submitting again after an unknown outcome is safe.
INSERT INTO task (id, arguments, status, submitted_at, due_at, name, function, queue, pool, priority, durable,
                  max_retries, timeout_us, tags, stall_timeout_us, limit_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING;

-- name: submit_claimed
-- The commit that submits a task also claims it for a worker of this process, unless something in the way should come
-- first: a paused or limited queue, a task of its line that is as urgent (of those with a key, one that may run now), any
-- task whose moment has come. Not for tasks with a limit key.
INSERT INTO task (id, arguments, status, submitted_at, due_at, name, function, queue, pool, priority, durable,
                  max_retries, timeout_us, tags, stall_timeout_us, limit_key, attempt, owner, claimed_at)
SELECT ?1, ?2, 'running', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, 1, ?17, ?4
WHERE ?3 = 'pending' AND ?16 IS NULL
  AND NOT EXISTS (SELECT 1 FROM queue WHERE name = ?8
                  AND (paused_at IS NOT NULL OR concurrency IS NOT NULL OR rate IS NOT NULL))
  AND NOT EXISTS (SELECT 1 FROM task WHERE status = 'pending' AND limit_key IS NULL AND queue = ?8 AND pool = ?9
                  AND priority >= ?10)
  AND NOT EXISTS (SELECT 1 FROM key_room WHERE queue = ?8 AND pool = ?9 AND priority >= ?10 AND room > 0)
  AND NOT EXISTS (SELECT 1 FROM task WHERE status IN ('scheduled', 'retrying') AND due_at <= ?4)
ON CONFLICT (id) DO NOTHING;

-- name: know_queue
INSERT INTO queue (name) VALUES (?) ON CONFLICT DO NOTHING;

-- name: count_queued
-- Stops counting at the limit, so that a check against a small queue_size costs little in a large store.
SELECT count(*) FROM (
    SELECT 1 FROM task WHERE status = 'pending'
    UNION ALL
    SELECT 1 FROM task WHERE status IN ('scheduled', 'retrying')
    UNION ALL
    SELECT 1 FROM task WHERE status = 'waiting'
    LIMIT ?
);
