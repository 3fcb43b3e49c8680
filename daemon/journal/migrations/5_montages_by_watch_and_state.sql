-- /api/montages and /metrics count by watch and state; without this index, each request reads all rows.
CREATE INDEX montages_by_watch_and_state ON montages (watch, state);
