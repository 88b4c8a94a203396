-- name: steps
SELECT s.name, s.inputs, s.result, s.attempt, s.at FROM step s JOIN task t ON t.seq = s.task WHERE t.id = ?
ORDER BY s.at, s.name;

-- name: record_step
-- Fenced: writes nothing when the task is no longer this attempt's. With other arguments a step is done again.
INSERT INTO step (task, name, inputs, result, attempt, at)
SELECT seq, :name, :inputs, :result, attempt, :now FROM task
WHERE seq = :seq AND id = :id AND attempt = :attempt AND owner = :owner AND status = 'running'
ON CONFLICT (task, name) DO UPDATE
SET inputs = excluded.inputs, result = excluded.result, attempt = excluded.attempt, at = excluded.at;

-- name: forget_steps_of
-- Of a task that has become another one.
DELETE FROM step WHERE task = (SELECT seq FROM task WHERE id = ?);

-- name: forget_steps
-- A completed task that is run again does all its work again; one that failed or was cancelled goes on where it was.
DELETE FROM step WHERE task = (SELECT seq FROM task WHERE id = :id AND status = 'completed');
