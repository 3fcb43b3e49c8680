-- Rename alert letters to messages.
ALTER TABLE alert_letters RENAME TO alert_messages;
