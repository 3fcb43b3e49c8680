"""Notification of programs (hooks) and of people (alerts): conditions, messages, delivery and retries."""
