-- name: submit
-- A task that is already there (same id) stays as it is: submitting again after an unknown outcome is safe.
INSERT INTO task (id, name, function, arguments, queue, pool, priority, status, submitted_at, due_at, durable,
                  max_retries, timeout_us, tags)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING;

-- name: know_queue
INSERT INTO queue (name) VALUES (?) ON CONFLICT DO NOTHING;

-- name: count_queued
-- Stops counting at the limit, so that a check against a small queue_size costs little in a large store.
SELECT count(*) FROM (
    SELECT 1 FROM task WHERE status = 'pending'
    UNION ALL
    SELECT 1 FROM task WHERE status IN ('scheduled', 'retrying')
    LIMIT ?
);
