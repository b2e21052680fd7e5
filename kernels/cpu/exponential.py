"""exp and the logistic function for compiled loops, eight numbers an instruction: within a rounding of float32 near
zero, and 1e-5 far from it, where x log2 e is rounded before its whole part is taken.
"""

import math

import numba
import numpy as np

# Taylor's coefficients of 2^f: within a rounding of float32 for f in [-1/2, 1/2].
T0, T1, T2, T3, T4, T5, T6 = (np.float32(math.log(2) ** n / math.factorial(n)) for n in range(7))
LOG2_E, LEAST, MOST, HALF = map(np.float32, (math.log2(math.e), -126, 126, 0.5))
ONE = T0


@numba.njit(inline="always")
def exp(x):
    """2^t, t = x log2 e: 2^n 2^f with a whole n, which is written as bits. Beyond +-87 it stays at 2^-126 or 2^126."""
    t = min(max(x * LOG2_E, LEAST), MOST)
    n = np.int32(np.floor(t + HALF))
    f = t - np.float32(n)
    power_of_f = T0 + f * (T1 + f * (T2 + f * (T3 + f * (T4 + f * (T5 + f * T6)))))
    return power_of_f * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@numba.njit(inline="always")
def sigmoid(x):
    """1 / (1 + exp(-x))"""
    return ONE / (ONE + exp(-x))
