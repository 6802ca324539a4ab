"""The worker side: what runs in a worker process, or, for threads, in the kernel. It imports nothing of the parent."""
