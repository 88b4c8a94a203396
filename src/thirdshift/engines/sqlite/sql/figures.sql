-- name: feed
-- In the transaction that records the ends, so in the order of the commits: the write lock makes the numbers.
INSERT INTO feed (kind, ends) VALUES (?, ?);

-- name: feed_to_fold
-- Where the fold stands, and which row of the feed is at most ?1 rows on; that is the same row when there is nothing.
SELECT folded, coalesce((SELECT max(seq) FROM (SELECT seq FROM feed WHERE seq > folded ORDER BY seq LIMIT ?1)), folded)
FROM figure_state;

-- name: fold
-- The ends of the rows after ?1 up to ?2, counted by what they have in common. A task is deleted only after its ends are
-- folded, so that every attempt is found. All in one row: Python gives up its interpreter lock at every row.
WITH
ended AS (
    SELECT f.kind, j.value & 1 AS is_given_up, a.outcome, a.worker, a.due_at, a.started_at, a.finished_at, t.name, t.queue,
           iif(a.number > 1, (SELECT max(p.finished_at) FROM attempt p WHERE p.task = a.task AND p.number < a.number), NULL)
               AS before_at
    FROM feed f CROSS JOIN json_each(f.ends) j
    CROSS JOIN attempt a ON a.task = j.value >> 27 AND a.number = (j.value >> 1) & 67108863
    CROSS JOIN task t ON t.seq = a.task
    WHERE f.seq > ?1 AND f.seq <= ?2
),
timed AS (
    SELECT *,
           iif(kind <> 'committed' AND outcome IN ('completed', 'failed', 'timed_out') AND started_at <= finished_at,
               finished_at - started_at, NULL) AS run_us,
           iif(kind <> 'committed', max(0, started_at - max(due_at, coalesce(before_at, due_at))), NULL) AS queue_us
    FROM ended
)
SELECT json_group_array(json_array(minute, name, queue, worker, outcome, count, given_up, run_bucket, run_us, longest_us,
                                   queue_bucket, queue_us))
FROM (
    SELECT finished_at / 60000000 * 60 AS minute, name, queue, worker, outcome,
           sum(kind <> 'amended') AS count,
           sum(kind <> 'amended' AND is_given_up AND outcome IN ('failed', 'timed_out')) AS given_up,
           (SELECT bucket FROM figure_bucket WHERE lowest_us <= run_us ORDER BY lowest_us DESC LIMIT 1) AS run_bucket,
           json_array(count(run_us), sum(run_us)) AS run_us, max(run_us) AS longest_us,
           (SELECT bucket FROM figure_bucket WHERE lowest_us <= queue_us ORDER BY lowest_us DESC LIMIT 1) AS queue_bucket,
           json_array(count(queue_us), sum(queue_us)) AS queue_us
    FROM timed
    GROUP BY minute, name, queue, worker, outcome, run_bucket, queue_bucket
);

-- name: newest_executions
-- The details of the newest ends in the same rows, at most ?3 of each name, oldest first. Only those are looked up.
SELECT t.id, t.name, t.queue, a.worker, a.number, a.outcome, a.finished_at,
       iif(a.started_at <= a.finished_at, a.finished_at - a.started_at, NULL),
       max(0, a.started_at - max(a.due_at, coalesce(
           (SELECT max(p.finished_at) FROM attempt p WHERE p.task = a.task AND p.number < a.number), a.due_at)))
FROM (
    SELECT j.value AS ended, f.seq AS feed, j.key AS place,
           row_number() OVER (PARTITION BY n.name ORDER BY f.seq DESC, j.key DESC) AS age
    FROM feed f CROSS JOIN json_each(f.ends) j CROSS JOIN task n ON n.seq = j.value >> 27
    WHERE f.seq > ?1 AND f.seq <= ?2 AND f.kind <> 'amended'
) AS newest
CROSS JOIN attempt a ON a.task = newest.ended >> 27 AND a.number = (newest.ended >> 1) & 67108863
CROSS JOIN task t ON t.seq = a.task
WHERE newest.age <= ?3
ORDER BY newest.feed, newest.place;

-- name: folded_up_to
-- Only when nobody else has folded these rows meanwhile.
UPDATE figure_state SET folded = ?2 WHERE folded = ?1;

-- name: forget_feed
-- All but the newest row: the number of a deleted newest row would be given again. And but for what the search index has
-- not read.
DELETE FROM feed WHERE seq < min(?1, (SELECT iif(is_on, indexed + 1, ?1) FROM search_state));

-- name: series
SELECT id FROM series WHERE name = ? AND queue = ?;

-- name: count_series
SELECT count(*) FROM series;

-- name: new_series
INSERT INTO series (name, queue) VALUES (?, ?);

-- name: figure
SELECT completed, failed, timed_out, cancelled, interrupted, snoozed, given_up, run_us, longest_us, run_times, queue_us,
       queue_times
FROM figure WHERE span = ? AND start_s = ? AND series = ? AND worker = ?;

-- name: write_figure
INSERT OR REPLACE INTO figure (span, start_s, series, worker, completed, failed, timed_out, cancelled, interrupted, snoozed,
                               given_up, run_us, longest_us, run_times, queue_us, queue_times)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: write_execution
INSERT INTO execution (seq, task, name, queue, worker, number, outcome, finished_at, run_us, queue_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: executions_given
SELECT executions, history FROM figure_state;

-- name: give_executions
UPDATE figure_state SET executions = ?;

-- name: set_history
UPDATE figure_state SET history = ? WHERE history <> ?1;

-- name: forget_executions_of
DELETE FROM execution
WHERE name = ?1 AND seq <= (SELECT seq FROM execution WHERE name = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2);

-- name: forget_executions_up_to
DELETE FROM execution WHERE seq <= ?;

-- name: executions
SELECT seq, task, name, queue, worker, number, outcome, finished_at, run_us, queue_us FROM execution
WHERE seq > ?1 ORDER BY seq LIMIT ?2;

-- name: executions_of
SELECT seq, task, name, queue, worker, number, outcome, finished_at, run_us, queue_us FROM execution
WHERE name = ?1 ORDER BY seq DESC LIMIT ?2;

-- name: has_old_figures
SELECT EXISTS (SELECT 1 FROM figure WHERE span = ? AND start_s < ?);

-- name: forget_figures
-- In batches, with the oldest first.
DELETE FROM figure WHERE (span, start_s, series, worker) IN (
    SELECT span, start_s, series, worker FROM figure WHERE span = ?1 AND start_s < ?2 ORDER BY start_s LIMIT ?3
);

-- name: figures
SELECT f.span, f.start_s, s.name, s.queue, f.worker, f.completed, f.failed, f.timed_out, f.cancelled, f.interrupted,
       f.snoozed, f.given_up, f.run_us, f.longest_us, f.run_times, f.queue_us, f.queue_times
FROM figure f CROSS JOIN series s ON s.id = f.series
WHERE f.span = ?1 AND f.start_s >= ?2 AND (?3 IS NULL OR s.name = ?3)
ORDER BY f.start_s, s.name, s.queue, f.worker;

-- name: loads
-- What can start now, by queue: covering indexes of unfinished tasks only. Of a limit key the first one can, if any.
SELECT queue, sum(waits), sum(NOT waits AND NOT runs), sum(runs), min(iif(waits, due_at, NULL)) FROM (
    SELECT queue, due_at, 1 AS waits, 0 AS runs FROM task WHERE status = 'pending' AND limit_key IS NULL
    UNION ALL
    SELECT queue, iif(seq IN (SELECT seq FROM key_room WHERE room > 0), due_at, NULL), 1, 0 FROM task
    WHERE status = 'pending' AND limit_key IS NOT NULL
    UNION ALL
    SELECT queue, due_at, due_at <= ?1, 0 FROM task WHERE status IN ('scheduled', 'retrying')
    UNION ALL
    SELECT queue, due_at, 0, 0 FROM task WHERE status = 'waiting'
    UNION ALL
    SELECT queue, due_at, 0, 1 FROM task WHERE status = 'running'
) GROUP BY queue;
