-- Functions that workers could not find, and what failed attempts have in common. Nothing here is written, or read on the
-- way of a task, while every function is found and nothing fails.

-- The functions. A row stands for one stretch of time: it is replaced when nobody has met the function for long.
CREATE TABLE unknown_function (
    function TEXT PRIMARY KEY,                            -- module:qualified.name
    since    INTEGER NOT NULL,                            -- no worker that takes its tasks could find it since then
    met_at   INTEGER NOT NULL                             -- when a worker could not find it last
) STRICT, WITHOUT ROWID;

-- Which workers could not find it, and how.
CREATE TABLE unknown_to (
    function TEXT NOT NULL REFERENCES unknown_function (function) ON DELETE CASCADE,
    worker   TEXT NOT NULL REFERENCES worker (id) ON DELETE CASCADE,
    error    TEXT NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (function, worker)
) STRICT, WITHOUT ROWID;

-- What errors of one cause share (thirdshift.core.task.TaskError.fingerprint).
ALTER TABLE attempt ADD COLUMN error_fingerprint TEXT;    -- NULL: the error's type, if there is one
