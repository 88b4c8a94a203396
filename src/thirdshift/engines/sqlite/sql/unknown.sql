-- name: meet_unknown
-- The time starts again when somebody else could find the function.
INSERT INTO unknown_function (function, since, met_at) VALUES (:function, :now, :now)
ON CONFLICT (function) DO UPDATE SET since = iif(:is_known, excluded.since, since), met_at = excluded.met_at;

-- name: note_unknown_to
INSERT INTO unknown_to (function, worker, error, at) SELECT :function, id, :error, :now FROM worker WHERE id = :worker
ON CONFLICT (function, worker) DO UPDATE SET error = excluded.error, at = excluded.at;

-- name: unknown_since
-- A task that became due later has waited less long. One that was deleted meanwhile has not waited at all.
SELECT max(u.since, coalesce((SELECT due_at FROM task WHERE seq = ?2), u.met_at))
FROM unknown_function u WHERE u.function = ?1;

-- name: unknown_to
SELECT worker, error, at FROM unknown_to WHERE function = ?;

-- name: forget_unknown_to
DELETE FROM unknown_to WHERE worker = ?1 AND function IN (SELECT value FROM json_each(?2));

-- name: renew_unknown
UPDATE unknown_function SET since = ?1 WHERE function IN (SELECT value FROM json_each(?2));

-- name: forget_unknown
DELETE FROM unknown_function WHERE met_at < ?;

-- name: unknown_functions
-- Those of which registered workers say now that they cannot find them.
SELECT u.function, u.since, count(*)
FROM unknown_function u JOIN unknown_to w ON w.function = u.function WHERE u.met_at >= ? GROUP BY u.function;
