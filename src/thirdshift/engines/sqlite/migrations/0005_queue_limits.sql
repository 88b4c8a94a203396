-- Limits of a queue, for all workers together (manager.limit_queue). The rate is a bucket of starts: a start takes one,
-- and it fills again with time.

ALTER TABLE queue ADD COLUMN concurrency INTEGER CHECK (concurrency > 0); -- most tasks that run at once; NULL: no limit
ALTER TABLE queue ADD COLUMN rate        REAL    CHECK (rate > 0);        -- starts a second; NULL: no limit
ALTER TABLE queue ADD COLUMN burst       INTEGER CHECK (burst > 0);       -- what the bucket holds
ALTER TABLE queue ADD COLUMN starts      REAL;                            -- what it held at filled_at
ALTER TABLE queue ADD COLUMN filled_at   INTEGER;
