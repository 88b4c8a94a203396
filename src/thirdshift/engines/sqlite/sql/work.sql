-- name: promote
-- Retrying and scheduled tasks whose moment has come become runnable; their due time keeps them ahead of later ones.
UPDATE task SET status = 'pending'
WHERE seq IN (
    SELECT seq FROM task WHERE status IN ('scheduled', 'retrying') AND due_at <= :now ORDER BY due_at LIMIT :limit
);

-- name: next_due
-- And whether any task waits for another: asked at once, because every statement costs a pass some microseconds.
SELECT (SELECT min(due_at) FROM task WHERE status IN ('scheduled', 'retrying')),
       EXISTS (SELECT 1 FROM dependency WHERE state = 'open');

-- name: open_lines
-- The lines in which anything waits, of queues that are not paused: few index probes for each. And whether tasks with a
-- limit key wait there.
SELECT q.name, p.column1, q.concurrency IS NOT NULL OR q.rate IS NOT NULL,
       EXISTS (SELECT 1 FROM key_line)
       AND EXISTS (SELECT 1 FROM key_line WHERE queue = q.name AND pool = p.column1) AS is_keyed
FROM queue AS q CROSS JOIN (VALUES ('thread'), ('process'), ('async')) AS p
WHERE q.paused_at IS NULL
  AND (EXISTS (SELECT 1 FROM task WHERE status = 'pending' AND limit_key IS NULL AND queue = q.name AND pool = p.column1)
       OR is_keyed)
ORDER BY q.name;

-- name: limits
-- The limits of a queue, and how many of its tasks run: there are few running ones.
SELECT concurrency, rate, burst, starts, filled_at,
       (SELECT count(*) FROM task WHERE status = 'running' AND queue = ?1)
FROM queue WHERE name = ?1;

-- name: take_starts
UPDATE queue SET starts = ?2, filled_at = ?3 WHERE name = ?1;

-- name: open_queues
SELECT name FROM queue WHERE paused_at IS NULL ORDER BY name;

-- name: runnable
-- Read inside the transaction that claims, so nobody can take these rows in between. Walks task_runnable in its order;
-- tasks with a limit key are for runnable_keyed.
-- All rows in one: Python gives up its interpreter lock at every row and has to win it back from the slots. As bytes,
-- because arguments may hold half characters; long ones are left to the query arguments.
SELECT CAST(json_group_array(json_array(
           priority, due_at, seq, id, attempt, name, function,
           iif(length(arguments) <= 1000, CAST(arguments AS TEXT), NULL),
           queue, pool, failures, max_retries, timeout_us, durable, crashes, stall_timeout_us,
           schedule_name, scheduled_for)) AS BLOB)
FROM (SELECT * FROM task
      WHERE status = 'pending' AND limit_key IS NULL AND queue = ?1 AND pool = ?2
      ORDER BY priority DESC, due_at, seq
      LIMIT ?3);

-- name: arguments
SELECT arguments FROM task WHERE seq = ?;

-- name: claim
UPDATE task SET status = 'running', attempt = attempt + 1, owner = ?, claimed_at = ?
WHERE status = 'pending' AND seq IN (VALUES (?));

-- name: claim_first
-- Look, choice and claim in one: for an idle worker that was told of one new task. Not if something in the way should come
-- first, as in submit_claimed.
UPDATE task SET status = 'running', attempt = attempt + 1, owner = :owner, claimed_at = :now
WHERE id = :id AND status = 'pending' AND limit_key IS NULL
  AND NOT EXISTS (SELECT 1 FROM queue WHERE name = task.queue
                  AND (paused_at IS NOT NULL OR concurrency IS NOT NULL OR rate IS NOT NULL))
  AND NOT EXISTS (SELECT 1 FROM task AS other
                  WHERE other.status = 'pending' AND other.limit_key IS NULL AND other.queue = task.queue
                  AND other.pool = task.pool AND other.priority >= task.priority AND other.seq <> task.seq)
  AND NOT EXISTS (SELECT 1 FROM key_room
                  WHERE queue = task.queue AND pool = task.pool AND priority >= task.priority AND room > 0)
  AND NOT EXISTS (SELECT 1 FROM task AS due WHERE due.status IN ('scheduled', 'retrying') AND due.due_at <= :now)
RETURNING (SELECT min(due.due_at) FROM task AS due WHERE due.status IN ('scheduled', 'retrying')), arguments,
          priority, due_at, seq, id, attempt - 1, name, function, NULL, queue, pool, failures, max_retries, timeout_us,
          durable, crashes, stall_timeout_us, schedule_name, scheduled_for;

-- name: record_attempts
-- Fenced: writes nothing when the task is no longer this attempt's, or when the same end was recorded already. The id is
-- part of the fence, because the number of a deleted task may be given again. Runs before settle, in one transaction.
INSERT INTO attempt (task, number, outcome, worker, claimed_at, started_at, finished_at, result, error_type,
                     error_message, error_traceback, cpu_us, peak_memory_bytes, due_at)
WITH ended (seq, id, attempt, owner, outcome, started_at, finished_at, result, error_type, error_message, error_traceback,
            cpu_us, peak_memory_bytes)
    AS (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?))
SELECT t.seq, t.attempt,
       CASE WHEN t.cancel_requested_at IS NULL OR e.outcome = 'interrupted' THEN e.outcome ELSE 'cancelled' END,
       t.owner, t.claimed_at, e.started_at, e.finished_at, iif(t.cancel_requested_at IS NULL, e.result, NULL),
       e.error_type, e.error_message, e.error_traceback, e.cpu_us, e.peak_memory_bytes, t.due_at
FROM ended e CROSS JOIN task t
    ON t.seq = e.seq AND t.id = e.id AND t.attempt = e.attempt AND t.owner = e.owner AND t.status = 'running'
WHERE true
ON CONFLICT DO NOTHING;

-- name: settle
-- Fenced like record_attempts. A task whose cancellation was asked for ends as cancelled, whatever the function did:
-- cancel_task answered True, which means that the task will not complete.
UPDATE task
SET status      = iif(cancel_requested_at IS NULL, e.status, 'cancelled'),
    finished_at = iif(cancel_requested_at IS NOT NULL
                      OR e.status = 'completed' OR e.status = 'failed' OR e.status = 'cancelled', e.finished_at, NULL),
    due_at      = coalesce(e.due_at, task.due_at),
    failures    = failures + iif(cancel_requested_at IS NULL, e.failed, 0),
    crashes     = coalesce(e.crashes, task.crashes),
    owner       = NULL,
    claimed_at  = NULL
FROM (WITH ended (seq, id, attempt, owner, finished_at, status, due_at, failed, crashes)
          AS (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?))
      SELECT * FROM ended) AS e
WHERE task.seq = e.seq AND task.id = e.id AND task.attempt = e.attempt AND task.owner = e.owner AND task.status = 'running';

-- name: amend_attempt
-- An attempt that recorded its own end, in a transaction of the application, could not know yet what it used. No other
-- end is "completed" without a start, so this changes nothing of a task that was lost.
UPDATE attempt SET started_at = ?, cpu_us = ?, peak_memory_bytes = ?
WHERE task = ? AND number = ? AND worker = ? AND outcome = 'completed' AND started_at IS NULL
  AND EXISTS (SELECT 1 FROM task WHERE seq = attempt.task AND id = ?);

-- name: is_held
-- The fence, read under the write lock: what it says stays true until the transaction ends.
SELECT cancel_requested_at IS NOT NULL FROM task
WHERE seq = ? AND id = ? AND attempt = ? AND owner = ? AND status = 'running';

-- name: write_nothing
-- Takes the write lock, if it can be had, and changes no row.
UPDATE task SET seq = seq WHERE false;

-- name: record_trace
-- Runs only for attempts that were recorded just before, in the same transaction, or had recorded themselves.
INSERT INTO trace (task, number, stdout, stderr, log) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: record_fingerprint
-- As record_trace, for errors that came from somewhere; that of the others is their type.
UPDATE attempt SET error_fingerprint = ? WHERE task = ? AND number = ?;

-- name: give_back
-- The function was never called: no attempt row, and the due time that keeps its place in the line. One whose
-- cancellation was asked for meanwhile is cancelled instead.
UPDATE task
SET status      = iif(cancel_requested_at IS NULL, 'pending', 'cancelled'),
    finished_at = iif(cancel_requested_at IS NULL, NULL, :now),
    owner       = NULL,
    claimed_at  = NULL
WHERE seq = :seq AND id = :id AND attempt = :attempt AND owner = :owner AND status = 'running';

-- name: record_progress
INSERT INTO progress (task, attempt, at, facts)
SELECT seq, attempt, :at, :facts FROM task
WHERE seq = :seq AND id = :id AND attempt = :attempt AND owner = :owner AND status = 'running'
ON CONFLICT (task) DO UPDATE SET attempt = excluded.attempt, at = excluded.at, facts = excluded.facts;

-- name: paused_queues
SELECT name FROM queue WHERE paused_at IS NOT NULL;

-- name: cancel_requests
SELECT id FROM task WHERE status = 'running' AND owner = ? AND cancel_requested_at IS NOT NULL;

-- name: other_owners
SELECT DISTINCT owner FROM task WHERE status = 'running' AND owner <> ?
UNION
SELECT id FROM worker WHERE id <> ?;

-- name: other_pids
SELECT pid FROM worker WHERE id <> ?;

-- name: held_by
SELECT seq, id, name, attempt, crashes FROM task WHERE status = 'running' AND owner = ?;


-- name: register_worker
INSERT INTO worker (id, pid, host, started_at, slots, queues, excluded, pools) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: forget_worker
DELETE FROM worker WHERE id = ?;
