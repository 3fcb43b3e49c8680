"""SQLite: events and states in one transaction; the file, its migrations, its queries."""
