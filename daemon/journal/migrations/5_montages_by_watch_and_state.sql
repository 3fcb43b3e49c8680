-- Every look at /api/montages and /metrics counts by watch and state; without it each walks over all rows.
CREATE INDEX montages_by_watch_and_state ON montages (watch, state);
