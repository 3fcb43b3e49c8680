"""The outbox's readers: hooks for programs and alerts for people, their delivery and retries."""
