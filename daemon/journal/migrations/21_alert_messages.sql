-- A message to people is called a message, here too.
ALTER TABLE alert_letters RENAME TO alert_messages;
