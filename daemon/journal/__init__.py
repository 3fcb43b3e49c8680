"""SQLite: the file, its connections and migrations, and the journal's methods, each one transaction."""
