"""The benchmarks: poolmagic beside its peers, each through its own interface. ``make bench`` runs them all.

A *workload* is what is to be done, a *peer* is who does it. Every measurement, one workload done by one peer, is a
fresh process of its own (`one`), started by the `rounds` of a run, and what they find is a `report`.
"""
