-- name: schedules_look
-- Asked before the write lock is taken: nothing is due most of the time. A look that lies in the future was made before
-- the clock was set back.
SELECT seq FROM schedule WHERE next_at IS NOT NULL AND (next_at <= ?1 OR looked_at > ?2) ORDER BY next_at;

-- name: schedules_next
SELECT min(next_at) FROM schedule WHERE next_at > ?;

-- name: schedules_active
SELECT name, next_at FROM schedule WHERE next_at IS NOT NULL ORDER BY next_at;

-- name: schedules
-- Every schedule with its newest fire: the primary key is walked backwards for one row.
SELECT s.seq, s.revision, s.id, s.name, s.rule, s.task, s.arguments, s.source, s.begun_at, s.next_at, s.paused_at,
       s.ended_at, f.nominal, f.kind, f.at, f.task, s.looked_at
FROM schedule AS s
LEFT JOIN fire AS f ON f.schedule = s.seq
  AND (f.nominal, f.kind) = (SELECT nominal, kind FROM fire WHERE schedule = s.seq
                             ORDER BY nominal DESC, kind DESC LIMIT 1);

-- name: schedule_insert
INSERT INTO schedule (id, name, source, rule, task, arguments, begun_at, next_at, looked_at)
VALUES (:id, :name, :source, :rule, :task, :arguments, :now, :next_at, :now);

-- name: schedule_replace
UPDATE schedule
SET source = :source, rule = :rule, task = :task, arguments = :arguments, begun_at = :begun_at, looked_at = :now,
    next_at = iif(paused_at IS NULL, :next_at, NULL), ended_at = NULL, revision = revision + 1
WHERE id = :id;

-- name: schedule_pause
UPDATE schedule SET paused_at = :now, next_at = NULL, revision = revision + 1 WHERE id = :id AND paused_at IS NULL;

-- name: schedule_resume
UPDATE schedule
SET paused_at = NULL, next_at = iif(ended_at IS NULL, :next_at, NULL), looked_at = :now, revision = revision + 1
WHERE id = :id AND paused_at IS NOT NULL;

-- name: schedule_end
UPDATE schedule SET ended_at = :now, next_at = NULL, revision = revision + 1 WHERE id = :id AND ended_at IS NULL;

-- name: schedule_delete
DELETE FROM schedule WHERE id = ?;

-- name: schedule_strays
-- Of one source, those that it does not name any more.
SELECT id, name FROM schedule WHERE source = ?1 AND name NOT IN (SELECT value FROM json_each(?2));

-- name: schedule_move_on
-- Only from where the plan was made: another process has moved it on, or somebody has changed it.
UPDATE schedule SET next_at = :next_at, looked_at = :now
WHERE id = :id AND revision = :revision AND next_at = :was;

-- name: fire_insert
-- The key that makes a fire time happen once, whoever comes first, whatever the clocks said in between.
INSERT INTO fire (schedule, nominal, kind, at) VALUES (:schedule, :nominal, :kind, :now) ON CONFLICT DO NOTHING;

-- name: fire_task
UPDATE fire SET task = :task WHERE schedule = :schedule AND nominal = :nominal AND kind = :kind;

-- name: fires
SELECT nominal, kind, at, task FROM fire WHERE schedule = ?1 ORDER BY nominal DESC, kind DESC LIMIT ?2;

-- name: fired_after
-- What a clock that was set back would come to again.
SELECT nominal FROM fire WHERE schedule = ?1 AND nominal > ?2 AND kind = 'due';

-- name: fires_forget
-- The newest hundred stay, and all that a clock set back by up to two days could come to again.
DELETE FROM fire
WHERE schedule = ?1 AND nominal < min(?2, coalesce(
    (SELECT nominal FROM fire WHERE schedule = ?1 ORDER BY nominal DESC LIMIT 1 OFFSET 100), 0));

-- name: unfinished_of_schedule
SELECT id FROM task WHERE schedule = ? AND finished_at IS NULL ORDER BY seq;

-- name: mark_scheduled
UPDATE task SET schedule = :schedule, schedule_name = :name, scheduled_for = :nominal WHERE id = :task;

-- name: wait_for_siblings
-- A task of a schedule that is to run again waits for the schedule's unfinished ones, as a new one does; not for those that
-- cannot start before its own end.
WITH RECURSIVE behind (seq) AS (
    SELECT c.seq FROM task AS t CROSS JOIN dependency AS d ON d.parent = t.seq
    CROSS JOIN task AS c ON c.seq = d.child AND c.status = 'waiting'
    WHERE t.id = ?1
    UNION
    SELECT c.seq FROM behind CROSS JOIN dependency AS d ON d.parent = behind.seq
    CROSS JOIN task AS c ON c.seq = d.child AND c.status = 'waiting'
)
INSERT INTO dependency (parent, child, need, state)
SELECT p.seq, t.seq, 'any', 'open' FROM task AS t CROSS JOIN task AS p ON p.schedule = t.schedule AND p.finished_at IS NULL
WHERE t.id = ?1 AND t.finished_at IS NOT NULL AND t.schedule IS NOT NULL AND p.seq NOT IN (SELECT seq FROM behind)
ON CONFLICT DO NOTHING;
