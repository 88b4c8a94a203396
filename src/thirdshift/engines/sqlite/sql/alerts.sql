-- name: open_alerts
SELECT seq, kind, subject, value, threshold, facts, hold_us, quiet_us, since, fired_at, quiet_since, cleared_at
FROM alert WHERE cleared_at IS NULL ORDER BY seq;

-- name: past_alerts
SELECT seq, kind, subject, value, threshold, facts, hold_us, quiet_us, since, fired_at, quiet_since, cleared_at
FROM alert WHERE cleared_at IS NOT NULL ORDER BY cleared_at DESC, seq DESC LIMIT ?;

-- name: alert_changes
SELECT c.seq, c.kind, a.seq, a.kind, a.subject, a.value, a.threshold, a.facts, a.hold_us, a.quiet_us, a.since, a.fired_at,
       a.quiet_since, a.cleared_at
FROM alert_change c CROSS JOIN alert a ON a.seq = c.alert WHERE c.seq > ?1 ORDER BY c.seq LIMIT ?2;

-- name: last_alert_change
SELECT coalesce(max(seq), 0) FROM alert_change;

-- name: open_alert
-- The index refuses a second one for the same trouble.
INSERT INTO alert (kind, subject, value, threshold, facts, hold_us, quiet_us, since, fired_at, quiet_since, cleared_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: write_alert
UPDATE alert SET value = ?, facts = ?, fired_at = ?, quiet_since = ?, cleared_at = ? WHERE seq = ?;

-- name: drop_alert
DELETE FROM alert WHERE seq = ? AND fired_at IS NULL;

-- name: tell_alert_change
INSERT INTO alert_change (alert, kind) VALUES (?, ?);

-- name: forget_alerts
-- All but the newest that have cleared; the newest change of all stays, because its number would be given again.
DELETE FROM alert WHERE cleared_at IS NOT NULL
  AND seq IN (SELECT seq FROM alert WHERE cleared_at IS NOT NULL ORDER BY seq DESC LIMIT -1 OFFSET ?)
  AND seq <> (SELECT alert FROM alert_change ORDER BY seq DESC LIMIT 1);

-- name: told
SELECT told FROM alert_reader WHERE name = ?;

-- name: tell
INSERT INTO alert_reader (name, told) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET told = max(told, excluded.told);

-- name: record_death
INSERT INTO worker_death (worker, pid, host, at, tasks) SELECT id, pid, host, ?2, ?3 FROM worker WHERE id = ?1;

-- name: forget_deaths
DELETE FROM worker_death WHERE seq <= (SELECT max(seq) FROM worker_death) - ?;

-- name: deaths
SELECT worker, pid, host, at, tasks FROM worker_death WHERE at >= ? ORDER BY seq;

-- name: reports
-- Running attempts that have reported progress, and when last. There are few running tasks.
SELECT t.id, t.name, t.queue, p.at FROM task t CROSS JOIN progress p ON p.task = t.seq AND p.attempt = t.attempt
WHERE t.status = 'running' AND p.at <= ?;
