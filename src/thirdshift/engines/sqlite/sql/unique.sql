-- name: release_expired
-- In the transaction that wants the key, so that an expired one is free at its moment.
DELETE FROM held_key WHERE key = ? AND expires_at <= ?;

-- name: submit_unique
-- Between submitters that race, the index of live keys decides: the second one stores nothing.
INSERT INTO task (id, arguments, status, submitted_at, due_at, name, function, queue, pool, priority, durable,
                  max_retries, timeout_us, tags, stall_timeout_us, limit_key, unique_key)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17
WHERE NOT EXISTS (SELECT 1 FROM held_key WHERE key = ?17)
ON CONFLICT DO NOTHING;

-- name: key_holder
-- Why nothing was stored: the task is there already (same id), a live task has its key, or the key is held for a period.
-- As bytes: the connection of an application may have its own idea of texts.
SELECT CAST(coalesce((SELECT id FROM task WHERE id = :id),
                     (SELECT id FROM task WHERE unique_key = :key AND finished_at IS NULL),
                     (SELECT holder FROM held_key WHERE key = :key)) AS BLOB);

-- name: make_durable
-- Who asks for durability and is led to a task gets it: this commit syncs the one that stored the task.
UPDATE task SET durable = 1 WHERE id = ? AND durable = 0;

-- name: hold_key
INSERT INTO held_key (key, holder, expires_at) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at;

-- name: replace
-- What has not started becomes what was asked for last, with all its retries. Its id, its place among equals and its
-- attempts stay, and so does what was promised about power loss. Takes the parameters of submit, and the task's id.
UPDATE task
SET arguments = ?2, due_at = ?5, name = ?6, function = ?7, queue = ?8, pool = ?9, priority = ?10, durable = max(durable, ?11),
    max_retries = ?12, timeout_us = ?13, tags = ?14, stall_timeout_us = ?15, limit_key = ?16, failures = 0, crashes = 0
WHERE id = ?17 AND status IN ('pending', 'scheduled', 'retrying', 'waiting');

-- name: reschedule
UPDATE task SET status = :status WHERE id = :id AND status <> :status;

-- name: live_rival
-- The live task that has the key of this finished one.
SELECT rival.unique_key, rival.id
FROM task CROSS JOIN task AS rival ON rival.unique_key = task.unique_key AND rival.finished_at IS NULL
WHERE task.id = :id AND task.finished_at IS NOT NULL;

-- name: has_expired_key
SELECT EXISTS (SELECT 1 FROM held_key WHERE expires_at <= ?);

-- name: forget_expired_keys
DELETE FROM held_key WHERE key IN (SELECT key FROM held_key WHERE expires_at <= ? LIMIT ?);
