-- Alerts of the monitor: their state survives restarts, and the index lets a trouble have one open alert.

CREATE TABLE alert (
    seq         INTEGER PRIMARY KEY,
    kind        TEXT    NOT NULL,
    subject     TEXT    NOT NULL,                 -- a task's name or id, a queue, a worker, a folder
    value       REAL    NOT NULL,
    threshold   REAL    NOT NULL,
    facts       TEXT    NOT NULL,                 -- a JSON object
    hold_us     INTEGER NOT NULL,
    quiet_us    INTEGER NOT NULL,
    since       INTEGER NOT NULL,
    fired_at    INTEGER,                          -- NULL: its trouble has not lasted long enough yet
    quiet_since INTEGER,
    cleared_at  INTEGER
) STRICT;
CREATE UNIQUE INDEX alert_open ON alert (kind, subject) WHERE cleared_at IS NULL;

-- What is to be told, in order: each reader remembers how far it is.
CREATE TABLE alert_change (
    seq   INTEGER PRIMARY KEY,
    alert INTEGER NOT NULL REFERENCES alert (seq) ON DELETE CASCADE,
    kind  TEXT    NOT NULL CHECK (kind = 'fired' OR kind = 'cleared'),
    UNIQUE (alert, kind)
) STRICT;

CREATE TABLE alert_reader (
    name TEXT PRIMARY KEY,
    told INTEGER NOT NULL                         -- the last change that it has heard of
) STRICT, WITHOUT ROWID;

-- Workers that died: their own rows go when others take over.
CREATE TABLE worker_death (
    seq    INTEGER PRIMARY KEY,
    worker TEXT    NOT NULL,
    pid    INTEGER NOT NULL,
    host   TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    tasks  INTEGER NOT NULL                       -- that it held
) STRICT;
