-- Figures of ended attempts, folded into buckets of time in the background (docs/adr/0014). The way of a task writes one
-- row of the feed for each transaction that records ends; nothing here is read on that way.

-- The moment at which the attempt's task was due: with the end of the attempt before it, since when it could have run.
ALTER TABLE attempt ADD COLUMN due_at INTEGER;                        -- NULL: recorded by an older version

-- Which attempts ended, in the order of the commits. The newest row stays after it was folded, so that numbers only grow.
CREATE TABLE feed (
    seq  INTEGER PRIMARY KEY,
    kind TEXT    NOT NULL CHECK (kind = 'ended' OR kind = 'committed' OR kind = 'amended'),
    ends TEXT    NOT NULL      -- a JSON array: task * 2^27 + attempt's number * 2 + (1 where the task failed for good)
) STRICT;
-- 'committed': the attempt recorded its own end; its times come later ('amended'), or never.

CREATE TABLE figure_state (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    folded     INTEGER NOT NULL,                                      -- the last row of the feed that is in the buckets
    executions INTEGER NOT NULL,                                      -- the last number given to an execution
    history    INTEGER NOT NULL                                       -- executions of each name that are kept
) STRICT;
INSERT INTO figure_state (one, folded, executions, history) VALUES (1, 0, 0, 1000);

-- What is told apart: there are few names and queues, and at most 500 pairs of them.
CREATE TABLE series (
    id    INTEGER PRIMARY KEY,
    name  TEXT NOT NULL,
    queue TEXT NOT NULL,
    UNIQUE (name, queue)
) STRICT;

-- The buckets. Seconds of span: 0 all time, 60 minutes (of each worker apart), 3600 hours.
CREATE TABLE figure (
    span        INTEGER NOT NULL CHECK (span = 0 OR span = 60 OR span = 3600),
    start_s     INTEGER NOT NULL,                                     -- seconds since 1970 UTC
    series      INTEGER NOT NULL REFERENCES series (id),
    worker      TEXT    NOT NULL,                                     -- '': all together
    completed   INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    timed_out   INTEGER NOT NULL,
    cancelled   INTEGER NOT NULL,
    interrupted INTEGER NOT NULL,
    snoozed     INTEGER NOT NULL,
    given_up    INTEGER NOT NULL,
    run_us      INTEGER NOT NULL,
    longest_us  INTEGER NOT NULL,
    run_times   TEXT    NOT NULL,                                     -- a JSON object: bucket of time to count
    queue_us    INTEGER NOT NULL,
    queue_times TEXT    NOT NULL,
    PRIMARY KEY (span, start_s, series, worker)
) STRICT, WITHOUT ROWID;

-- The newest executions in detail.
CREATE TABLE execution (
    seq         INTEGER PRIMARY KEY,
    task        TEXT    NOT NULL,                                     -- its id: the task may be gone
    name        TEXT    NOT NULL,
    queue       TEXT    NOT NULL,
    worker      TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    outcome     TEXT    NOT NULL,
    finished_at INTEGER NOT NULL,
    run_us      INTEGER,
    queue_us    INTEGER
) STRICT;
CREATE INDEX execution_name ON execution (name, seq);

-- The buckets of the histograms, sixteen for each power of two, as thirdshift.core.figures.lowest_of says.
CREATE TABLE figure_bucket (
    lowest_us INTEGER PRIMARY KEY,
    bucket    INTEGER NOT NULL
) STRICT;
INSERT INTO figure_bucket (lowest_us, bucket)
WITH RECURSIVE numbered (bucket) AS (SELECT 0 UNION ALL SELECT bucket + 1 FROM numbered WHERE bucket < 800)
SELECT iif(bucket < 32, bucket, (16 + bucket % 16) << (bucket / 16 - 1)), bucket FROM numbered;
