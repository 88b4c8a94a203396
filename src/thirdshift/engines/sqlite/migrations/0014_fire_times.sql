-- Which fire time a task was made for, as its function may ask: it outlives the schedule and the list of its fires.

ALTER TABLE task ADD COLUMN schedule_name TEXT;     -- NULL: no schedule made it
ALTER TABLE task ADD COLUMN scheduled_for INTEGER;  -- the fire time by the rule; of a run by hand the moment of that

UPDATE task SET schedule_name = made.name, scheduled_for = made.nominal
FROM (SELECT f.task, f.nominal, s.name FROM fire AS f CROSS JOIN schedule AS s ON s.seq = f.schedule) AS made
WHERE task.id = made.task;
