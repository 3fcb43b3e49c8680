"""Messages to people: the conditions that need somebody, the messages about them, and their delivery."""
