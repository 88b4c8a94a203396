-- What attempts used stands in their rows; what they wrote stands apart, with a row only where something was written,
-- so that the row of every attempt stays small.

ALTER TABLE attempt ADD COLUMN cpu_us            INTEGER; -- NULL: not measured
ALTER TABLE attempt ADD COLUMN peak_memory_bytes INTEGER; -- NULL: not measured

CREATE TABLE trace (
    task   INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    number INTEGER NOT NULL,                              -- of the attempt
    stdout TEXT,                                          -- each the end of what was written, NULL: nothing was
    stderr TEXT,
    log    TEXT,
    PRIMARY KEY (task, number)
) STRICT;

-- Longest time that an attempt may go on without a sign of life.
ALTER TABLE task ADD COLUMN stall_timeout_us INTEGER;     -- NULL: no limit
