-- name: has_open_dependency
-- Asked after every end: nobody waits for anything in most stores, and then nothing else is.
SELECT EXISTS (SELECT 1 FROM dependency WHERE state = 'open');

-- name: parents
-- In one text, as bytes: the connection of an application may have its own idea of texts and rows.
SELECT CAST(json_group_object(t.id, json_array(t.seq, t.status)) AS BLOB)
FROM json_each(?) AS wanted CROSS JOIN task AS t ON t.id = wanted.value;

-- name: stored_ids
SELECT CAST(json_group_array(t.id) AS BLOB) FROM json_each(?) AS wanted CROSS JOIN task AS t ON t.id = wanted.value;

-- name: depend
-- Every child (?2, ids) on every parent (?1: number, need and state).
INSERT INTO dependency (parent, child, need, state)
SELECT json_extract(p.value, '$[0]'), c.seq, json_extract(p.value, '$[1]'), json_extract(p.value, '$[2]')
FROM json_each(?1) AS p CROSS JOIN json_each(?2) AS wanted CROSS JOIN task AS c ON c.id = wanted.value;

-- name: forget_dependencies
DELETE FROM dependency WHERE child = (SELECT seq FROM task WHERE id = ?);

-- name: is_above
-- Whether the task ?2 is among the tasks ?1 (numbers), or what these wait for, and so on.
WITH RECURSIVE above (seq) AS (
    SELECT value FROM json_each(?1)
    UNION
    SELECT d.parent FROM above CROSS JOIN dependency AS d ON d.child = above.seq
)
SELECT EXISTS (SELECT 1 FROM above CROSS JOIN task AS t ON t.seq = above.seq WHERE t.id = ?2);

-- name: decide_dependencies
-- Runs in the transaction that finishes the parents (numbers), so that a state and the status behind it never differ.
UPDATE dependency
SET state = (SELECT iif(need = 'any' OR t.status = 'completed', 'met', 'failed') FROM task AS t WHERE t.seq = parent)
WHERE state = 'open'
  AND parent IN (SELECT ended.value FROM json_each(?) AS ended CROSS JOIN task AS t ON t.seq = ended.value
                 WHERE t.finished_at IS NOT NULL);

-- name: cancel_dependants
-- All that can never run any more, however far down: who needs the success of a task that has none, and who needs theirs.
WITH RECURSIVE hopeless (seq) AS (
    SELECT d.child
    FROM json_each(?1) AS ended CROSS JOIN dependency AS d ON d.parent = ended.value AND d.state = 'failed'
    CROSS JOIN task AS c ON c.seq = d.child AND c.status = 'waiting'
    UNION
    SELECT d.child
    FROM hopeless CROSS JOIN dependency AS d ON d.parent = hopeless.seq AND d.need = 'success'
    CROSS JOIN task AS c ON c.seq = d.child AND c.status = 'waiting'
)
UPDATE task SET status = 'cancelled', finished_at = ?2 WHERE seq IN (SELECT seq FROM hopeless) RETURNING seq;

-- name: blame_parents
-- Whose end it was, of the dependants that were cancelled just before (numbers).
UPDATE task
SET cancelled_by = (SELECT p.id FROM dependency AS d CROSS JOIN task AS p ON p.seq = d.parent
                    WHERE d.child = task.seq AND d.state = 'failed' ORDER BY p.finished_at, p.seq LIMIT 1)
WHERE seq IN (SELECT value FROM json_each(?));

-- name: record_blame
INSERT INTO event (task, at, kind, detail)
SELECT t.seq, ?2, ?3, t.cancelled_by FROM json_each(?1) AS changed CROSS JOIN task AS t ON t.seq = changed.value;

-- name: release_dependants
-- Who waits for nothing else any more is due from now on, if it was not to wait for a later moment anyway.
UPDATE task SET status = iif(due_at <= ?2, 'pending', 'scheduled'), due_at = max(due_at, ?2)
WHERE status = 'waiting'
  AND seq IN (SELECT d.child FROM json_each(?1) AS ended CROSS JOIN dependency AS d
              ON d.parent = ended.value AND d.state = 'met')
  AND NOT EXISTS (SELECT 1 FROM dependency AS d WHERE d.child = task.seq AND d.state IN ('open', 'failed'));

-- name: failed_parents
-- Of a finished task: the parents that keep it from ever running.
SELECT p.id FROM task AS t CROSS JOIN dependency AS d ON d.child = t.seq AND d.state = 'failed'
CROSS JOIN task AS p ON p.seq = d.parent
WHERE t.id = ? AND t.finished_at IS NOT NULL ORDER BY p.seq LIMIT 10;

-- name: reopen_dependencies
-- Of tasks that run again (numbers), in the transaction that retries them.
UPDATE dependency SET state = 'open' WHERE state <> 'open' AND parent IN (SELECT value FROM json_each(?));

-- name: reopen
-- What the end of a task that runs again (numbers) had cancelled, unless another parent keeps it from running. OR IGNORE:
-- one whose unique key an unfinished task has by now stays cancelled, as a retry of it would be refused.
UPDATE OR IGNORE task SET status = 'waiting', finished_at = NULL, failures = 0, crashes = 0
WHERE seq IN (SELECT d.child FROM json_each(?) AS again CROSS JOIN dependency AS d ON d.parent = again.value)
  AND status = 'cancelled' AND cancelled_by IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM dependency AS d WHERE d.child = task.seq AND d.state = 'failed')
RETURNING seq;

-- name: forgive_parents
UPDATE task SET cancelled_by = NULL WHERE seq IN (SELECT value FROM json_each(?));

-- name: unfinished_dependants
SELECT count(*), min(c.id) FROM task AS t CROSS JOIN dependency AS d ON d.parent = t.seq
CROSS JOIN task AS c ON c.seq = d.child AND c.finished_at IS NULL
WHERE t.id = ? AND t.finished_at IS NOT NULL;

-- name: size_of_results
SELECT coalesce(sum(length((SELECT a.result FROM attempt AS a WHERE a.task = t.seq AND a.outcome = 'completed'
                            ORDER BY a.number DESC LIMIT 1))), 0)
FROM json_each(?) AS wanted CROSS JOIN task AS t ON t.id = wanted.value;

-- name: results
-- For arguments that stand for results: of each known task the last one, NULL where it has none.
SELECT t.id, (SELECT a.result FROM attempt AS a WHERE a.task = t.seq AND a.outcome = 'completed'
              ORDER BY a.number DESC LIMIT 1)
FROM json_each(?) AS wanted CROSS JOIN task AS t ON t.id = wanted.value;

-- name: parents_of
SELECT p.id, p.name, p.status, d.need, d.state FROM task AS t CROSS JOIN dependency AS d ON d.child = t.seq
CROSS JOIN task AS p ON p.seq = d.parent WHERE t.id = ?1 ORDER BY p.seq LIMIT ?2;

-- name: dependants_of
SELECT c.id, c.name, c.status, d.need, d.state FROM task AS t CROSS JOIN dependency AS d ON d.parent = t.seq
CROSS JOIN task AS c ON c.seq = d.child WHERE t.id = ?1 ORDER BY c.seq LIMIT ?2;

-- name: open_parents
-- What a waiting task waits for, and how many there are.
SELECT p.id, p.name, p.status, count(*) OVER () FROM dependency AS d CROSS JOIN task AS p ON p.seq = d.parent
WHERE d.child = ?1 AND d.state = 'open' ORDER BY p.seq LIMIT ?2;
