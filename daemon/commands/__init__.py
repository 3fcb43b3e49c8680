"""The commands beside `run`: status, check-config, verify, replay, journal, notify, plan, import commands."""
