-- name: search_state
SELECT is_on, indexed FROM search_state;

-- name: switch_search
-- Switched on, the feed is kept from here on; what ended before is read from the tasks themselves.
UPDATE search_state SET is_on = ?1, indexed = (SELECT folded FROM figure_state) WHERE is_on <> ?1;

-- name: indexed_up_to
-- After the index has committed: what a crash leaves in between is indexed once more.
UPDATE search_state SET indexed = ? WHERE indexed < ?1;

-- name: search_news
SELECT (SELECT coalesce(max(seq), 0) FROM task), (SELECT coalesce(max(seq), 0) FROM feed);

-- name: search_lag
-- Tasks that are not in the index yet, and ends that are not.
SELECT (SELECT count(*) FROM (SELECT 1 FROM task WHERE seq > ?1 LIMIT 100000)),
       (SELECT coalesce(sum(json_array_length(ends)), 0) FROM feed WHERE seq > ?2);

-- name: search_schema
-- The index: its rows have the numbers of the tasks. The id tells whether the number was given to another task since.
CREATE VIRTUAL TABLE doc USING fts5 (name, arguments, tags, error, result, id UNINDEXED,
                                     tokenize = "unicode61 remove_diacritics 2");

-- name: search_position_schema
CREATE TABLE position (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    task  INTEGER NOT NULL,                           -- the last task that is in the index
    feed  INTEGER NOT NULL,                           -- the last row of the feed that is
    sweep INTEGER NOT NULL                            -- up to where deleted tasks have been looked for
) STRICT;

-- name: search_begin
INSERT INTO position (one, task, feed, sweep) VALUES (1, 0, ?, 0);

-- name: search_position
SELECT task, feed, sweep FROM position;

-- name: new_tasks
SELECT seq FROM tasks.task WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: newest_task
SELECT coalesce(max(seq), 0) FROM tasks.task;

-- name: next_ends
-- Up to where the feed names at most so many ends, one row at least.
SELECT max(seq) FROM (
    SELECT seq, sum(json_array_length(ends)) OVER (ORDER BY seq) AS ends, min(seq) OVER () AS first
    FROM (SELECT seq, ends FROM tasks.feed WHERE seq > ?1 ORDER BY seq LIMIT 100)
)
WHERE ends <= ?2 OR seq = first;

-- name: ended_tasks
SELECT DISTINCT j.value >> 27 FROM tasks.feed AS f CROSS JOIN json_each(f.ends) AS j WHERE f.seq > ? AND f.seq <= ?;

-- name: index_tasks
-- Texts are cut: who looks for a task knows some words of it.
INSERT OR REPLACE INTO doc (rowid, name, arguments, tags, error, result, id)
SELECT t.seq, t.name || ' ' || t.function || ' ' || t.queue, substr(CAST(t.arguments AS TEXT), 4, 4000),
       t.tags || ' ' || coalesce(t.unique_key, ''),
       (SELECT group_concat(said, char(10))
        FROM (SELECT substr(a.error_type || ': ' || coalesce(a.error_message, ''), 1, 1000) AS said
              FROM tasks.attempt AS a WHERE a.task = t.seq AND a.error_type IS NOT NULL
              ORDER BY a.number DESC LIMIT 5)),
       (SELECT substr(CAST(a.result AS TEXT), 4, 4000) FROM tasks.attempt AS a
        WHERE a.task = t.seq AND a.result IS NOT NULL ORDER BY a.number DESC LIMIT 1),
       t.id
FROM json_each(?) AS wanted CROSS JOIN tasks.task AS t ON t.seq = wanted.value;

-- name: search_moved
UPDATE position SET task = ?, feed = ?, sweep = ?;

-- name: next_sweep
SELECT max(rowid) FROM (SELECT rowid FROM doc WHERE rowid > ?1 ORDER BY rowid LIMIT ?2);

-- name: stale_docs
-- Of tasks that are gone, or whose number is another task's by now.
SELECT d.rowid FROM doc AS d
WHERE d.rowid > ?1 AND d.rowid <= ?2 AND NOT EXISTS (SELECT 1 FROM tasks.task AS t WHERE t.seq = d.rowid AND t.id = d.id);

-- name: forget_docs
DELETE FROM doc WHERE rowid IN (SELECT value FROM json_each(?));

-- name: search
-- Newest first: to rank them, all that match would have to be read.
SELECT id, snippet(doc, -1, char(1), char(2), '…', 16) FROM doc WHERE doc MATCH ?1 ORDER BY rowid DESC LIMIT ?2;
