-- name: holders
-- Who holds running tasks, and how many. Walks a small partial index.
SELECT owner, count(*) FROM task WHERE status = 'running' GROUP BY owner;

-- name: oldest_runnable
-- Since when the first runnable task waits, and in which queue; paused ones wait on purpose, and so do those of a limit key
-- behind its first one. What is due and was not promoted waits too.
SELECT min(due_at), queue FROM (
    SELECT due_at, queue FROM task WHERE status = 'pending' AND limit_key IS NULL
    UNION ALL
    SELECT due_at, queue FROM key_room WHERE room > 0
    UNION ALL
    SELECT due_at, queue FROM task WHERE status IN ('scheduled', 'retrying') AND due_at <= ?1
)
WHERE due_at <= ?1 AND queue NOT IN (SELECT name FROM queue WHERE paused_at IS NOT NULL);

-- name: functions
-- Which functions unfinished tasks call, and how many of these each. Walks the partial indexes of unfinished tasks.
SELECT function, count(*) FROM (
    SELECT function FROM task WHERE status = 'pending'
    UNION ALL
    SELECT function FROM task WHERE status IN ('scheduled', 'retrying')
    UNION ALL
    SELECT function FROM task WHERE status = 'running'
    UNION ALL
    SELECT function FROM task WHERE status = 'waiting'
)
GROUP BY function ORDER BY function;

-- name: newest_submit
SELECT max(submitted_at) FROM (SELECT submitted_at FROM task ORDER BY seq DESC LIMIT 100);
