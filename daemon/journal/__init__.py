"""SQLite: events, states and the outbox in one transaction; the file, its migrations, its queries."""
