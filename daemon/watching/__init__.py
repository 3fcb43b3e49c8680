"""The parts of the watcher: what a root is, hints from events, passes of scans, mounts, trust in events, ownership."""
