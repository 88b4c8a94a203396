-- name: enter_line
-- After an INSERT: the task takes its place among those of its limit key, by the trigger task_moves_in_key. Changes nothing
-- else.
UPDATE task SET priority = priority WHERE id = ? AND limit_key IS NOT NULL;

-- name: runnable_keyed
-- As runnable: of each limit key that may run more, the first task, and how many more. Walks key_line_order in its order and
-- looks no further than the first of each key, so tasks behind it cost nothing, nor do those of a key that is used up.
SELECT CAST(json_group_array(json_array(
           priority, due_at, seq, id, attempt, name, function,
           iif(length(arguments) <= 1000, CAST(arguments AS TEXT), NULL),
           queue, pool, failures, max_retries, timeout_us, durable, crashes, stall_timeout_us, schedule_name, scheduled_for,
           limit_key, room)) AS BLOB)
FROM (SELECT t.*, l.room FROM key_room AS l CROSS JOIN task AS t ON t.seq = l.seq
      WHERE l.queue = ?1 AND l.pool = ?2 AND l.room > 0
      ORDER BY l.priority DESC, l.due_at, l.seq
      LIMIT ?3 OFFSET ?4);

-- name: runnable_of_key
-- As runnable, for one limit key.
SELECT CAST(json_group_array(json_array(
           priority, due_at, seq, id, attempt, name, function,
           iif(length(arguments) <= 1000, CAST(arguments AS TEXT), NULL),
           queue, pool, failures, max_retries, timeout_us, durable, crashes, stall_timeout_us, schedule_name, scheduled_for,
           limit_key)) AS BLOB)
FROM (SELECT * FROM task
      WHERE status = 'pending' AND limit_key = ?4 AND queue = ?1 AND pool = ?2
      ORDER BY priority DESC, due_at, seq
      LIMIT ?3);

-- name: has_room_in_key
-- Whether tasks of these limit keys wait that may run now.
SELECT EXISTS (SELECT 1 FROM key_room WHERE limit_key IN (SELECT value FROM json_each(?)) AND room > 0);

-- name: set_key_limit
INSERT INTO key_limit (limit_key, concurrency) VALUES (?1, ?2)
ON CONFLICT (limit_key) DO UPDATE SET concurrency = excluded.concurrency;

-- name: forget_key_limit
DELETE FROM key_limit WHERE limit_key = ?1;

-- name: key_limit
-- How many tasks of a limit key may run, and which ones do.
SELECT coalesce((SELECT concurrency FROM key_limit WHERE limit_key = ?1), 1),
       (SELECT json_group_array(id) FROM (SELECT id FROM task WHERE limit_key = ?1 AND status = 'running' ORDER BY seq));

-- name: limit_keys
-- The limit keys that have something to show, by name.
SELECT key.limit_key, coalesce(k.concurrency, 1),
       (SELECT count(*) FROM task AS t WHERE t.status = 'pending' AND t.limit_key = key.limit_key),
       (SELECT count(*) FROM task AS t WHERE t.status = 'running' AND t.limit_key = key.limit_key)
FROM (SELECT limit_key FROM key_limit
      UNION
      SELECT limit_key FROM key_line
      UNION
      SELECT limit_key FROM task WHERE limit_key IS NOT NULL AND status = 'running') AS key
LEFT JOIN key_limit AS k ON k.limit_key = key.limit_key
ORDER BY key.limit_key LIMIT ?;
