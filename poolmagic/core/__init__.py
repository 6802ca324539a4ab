"""The pure core: what a pool decides, without sockets, clocks, threads or pickles."""
