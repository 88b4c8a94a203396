-- The first schema. Moments are integers: microseconds since 1970-01-01 UTC. Statuses, pools and outcomes are the
-- words of thirdshift.core. The file is meant to be read with any SQLite tool; only this package may write it.
--
-- Checks list words with OR: SQLite builds a table in memory for an IN of three or more, at every statement, which
-- nearly doubles the cost of a claim and of an outcome (benchmarks/LOG.md).

-- One row for each task. Finished tasks stay until they are pruned; the partial indexes keep the hot ones small.
CREATE TABLE task (
    seq                 INTEGER PRIMARY KEY,          -- order of submission
    id                  TEXT    NOT NULL UNIQUE CHECK (length(id) = 32),
    name                TEXT    NOT NULL,
    function            TEXT    NOT NULL,             -- module:qualified.name
    arguments           BLOB    NOT NULL,             -- thirdshift.core.codec
    queue               TEXT    NOT NULL,
    pool                TEXT    NOT NULL CHECK (pool = 'thread' OR pool = 'process' OR pool = 'async'),
    priority            INTEGER NOT NULL,
    status              TEXT    NOT NULL CHECK (status = 'pending' OR status = 'running' OR status = 'completed'
                                               OR status = 'scheduled' OR status = 'retrying' OR status = 'failed'
                                               OR status = 'cancelled' OR status = 'waiting'),
    submitted_at        INTEGER NOT NULL,
    due_at              INTEGER NOT NULL,
    durable             INTEGER NOT NULL CHECK (durable IN (0, 1)),
    max_retries         INTEGER NOT NULL CHECK (max_retries >= 0),
    timeout_us          INTEGER          CHECK (timeout_us > 0),
    tags                TEXT    NOT NULL,             -- a JSON array
    attempt             INTEGER NOT NULL DEFAULT 0,   -- number of the newest claim: with owner the fence of an attempt
    failures            INTEGER NOT NULL DEFAULT 0,   -- attempts that count against max_retries
    owner               TEXT,                         -- the worker that holds it
    claimed_at          INTEGER,
    cancel_requested_at INTEGER,
    finished_at         INTEGER,
    CHECK ((status = 'running') = (owner IS NOT NULL)),
    CHECK ((status = 'running') = (claimed_at IS NOT NULL)),
    CHECK ((status = 'completed' OR status = 'failed' OR status = 'cancelled') = (finished_at IS NOT NULL))
) STRICT;

-- What a claim walks: strictly priority, then due time, then order of submission.
CREATE INDEX task_runnable ON task (queue, pool, priority DESC, due_at, seq) WHERE status = 'pending';
-- What promotion walks: a mountain of future tasks costs a claim nothing.
CREATE INDEX task_due ON task (due_at) WHERE status IN ('scheduled', 'retrying');
-- What a rescue and a cancellation walk.
CREATE INDEX task_running ON task (owner) WHERE status = 'running';
-- What pruning and the counts walk.
CREATE INDEX task_finished ON task (status, finished_at) WHERE finished_at IS NOT NULL;

-- One row for each attempt that ended, written once, in the transaction that moves its task on.
CREATE TABLE attempt (
    task            INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    number          INTEGER NOT NULL,
    outcome         TEXT    NOT NULL CHECK (outcome = 'completed' OR outcome = 'failed' OR outcome = 'timed_out'
                                                OR outcome = 'cancelled' OR outcome = 'interrupted'
                                                OR outcome = 'snoozed'),
    worker          TEXT    NOT NULL,
    claimed_at      INTEGER NOT NULL,
    started_at      INTEGER,                          -- NULL: the worker died and nobody knows
    finished_at     INTEGER NOT NULL,
    result          BLOB,                             -- thirdshift.core.codec
    error_type      TEXT,
    error_message   TEXT,
    error_traceback TEXT,
    PRIMARY KEY (task, number),
    CHECK (outcome = 'completed' OR result IS NULL)
) STRICT, WITHOUT ROWID;

-- The newest progress of a running attempt; written often, so it stands apart from the task's row.
CREATE TABLE progress (
    task    INTEGER PRIMARY KEY REFERENCES task (seq) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    facts   TEXT    NOT NULL                          -- a JSON object
) STRICT;

-- What people and other processes did to a task. Submission stands in the task, runs stand in the attempts.
CREATE TABLE event (
    seq    INTEGER PRIMARY KEY,
    task   INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    at     INTEGER NOT NULL,
    kind   TEXT    NOT NULL CHECK (kind IN ('cancel_requested', 'cancelled', 'retried', 'rescued')),
    detail TEXT
) STRICT;
CREATE INDEX event_task ON event (task);

-- The whole life of every task, oldest first: one picture drawn from the three places above.
CREATE VIEW history AS
SELECT seq AS task, submitted_at AS at, 0 AS attempt, 'submitted' AS what, NULL AS detail FROM task
UNION ALL
SELECT task, coalesce(started_at, claimed_at), number, 'started', worker FROM attempt
UNION ALL
SELECT task, finished_at, number, outcome, error_message FROM attempt
UNION ALL
SELECT task, at, NULL, kind, detail FROM event;

CREATE TABLE queue (
    name      TEXT PRIMARY KEY,
    paused_at INTEGER                                 -- NULL: running
) STRICT, WITHOUT ROWID;

-- Workers that are registered. Whether one is alive is never read from here: its lock file decides.
CREATE TABLE worker (
    id         TEXT PRIMARY KEY,
    pid        INTEGER NOT NULL,
    host       TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    slots      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The legal changes, the same list as thirdshift.core.status.TRANSITIONS (a test compares them).
CREATE TABLE transition (
    old TEXT NOT NULL,
    new TEXT NOT NULL,
    PRIMARY KEY (old, new)
) STRICT, WITHOUT ROWID;

INSERT INTO transition (old, new) VALUES
    ('pending', 'running'), ('pending', 'cancelled'),
    ('scheduled', 'pending'), ('scheduled', 'cancelled'),
    ('waiting', 'pending'), ('waiting', 'scheduled'), ('waiting', 'cancelled'),
    ('retrying', 'pending'), ('retrying', 'cancelled'),
    ('running', 'completed'), ('running', 'failed'), ('running', 'cancelled'), ('running', 'retrying'),
    ('running', 'scheduled'), ('running', 'pending'),
    ('completed', 'pending'), ('failed', 'pending'), ('cancelled', 'pending');

CREATE TRIGGER task_transition BEFORE UPDATE OF status ON task
WHEN NOT EXISTS (SELECT 1 FROM transition WHERE old = OLD.status AND new = NEW.status)
BEGIN
    SELECT RAISE(ABORT, 'illegal change of a task''s status');
END;

CREATE TRIGGER task_running_stays BEFORE DELETE ON task WHEN OLD.status = 'running'
BEGIN
    SELECT RAISE(ABORT, 'a running task cannot be deleted');
END;
