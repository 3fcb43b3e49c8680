"""The daemon's HTTP server: routes, JSON, access rules, live events, pages."""
