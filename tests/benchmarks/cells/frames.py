"""A cell that uses pandas."""

from __future__ import annotations

import os
import time

import numpy as np
import pandas as pd


def frame_sum(x: int) -> float:
    """Return what a small table adds up to."""
    return float(pd.DataFrame({"a": np.arange(4), "b": x})["a"].sum())


def whoami(pause: float) -> tuple[int, float]:
    """Use pandas, and return which process did, and when."""
    frame_sum(1)
    done = time.perf_counter()
    time.sleep(pause)
    return os.getpid(), done
