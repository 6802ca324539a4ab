"""A seeded storm on real processes: what all the promises together are worth. See `__main__`."""
