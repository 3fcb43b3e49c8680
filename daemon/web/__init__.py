"""HTTP: routes, JSON, access rules."""
