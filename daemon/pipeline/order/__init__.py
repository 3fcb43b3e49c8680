"""Which work is next, and when: the queue, limits, order of acquisition, delays of retries, locks of tiles."""
