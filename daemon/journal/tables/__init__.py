"""Functions of a connection that read and write the journal's tables; the caller runs each in one transaction."""
