"""The browser pages of a storage: its studies, live or finished, read-only."""
