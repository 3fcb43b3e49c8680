"""`temwatch journal`: copy the journal, check it before an upgrade, rebuild it."""
