"""The worker side: what runs in a worker process (or, for threads, next to the kernel). Imports nothing of the parent side."""
