-- How far the search index is, which lies in a file of its own beside this one (docs/adr/0015).
CREATE TABLE search_state (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    is_on   INTEGER NOT NULL CHECK (is_on = 0 OR is_on = 1),
    indexed INTEGER NOT NULL                          -- the last row of the feed that is in the index; later ones are kept
) STRICT;
INSERT INTO search_state (one, is_on, indexed) VALUES (1, 0, 0);
