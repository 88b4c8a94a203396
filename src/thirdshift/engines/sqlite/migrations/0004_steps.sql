-- What parts of tasks returned that are done once, whatever becomes of the attempt (current_task().step).
CREATE TABLE step (
    task    INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    name    TEXT    NOT NULL,
    inputs  TEXT    NOT NULL,                             -- a hash of the arguments
    result  BLOB    NOT NULL,                             -- thirdshift.core.codec
    attempt INTEGER NOT NULL,                             -- number of the attempt that did it
    at      INTEGER NOT NULL,
    PRIMARY KEY (task, name)
) STRICT, WITHOUT ROWID;
