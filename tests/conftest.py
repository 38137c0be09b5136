"""Settings of all tests."""

import os

# Before PyTorch is imported: its threads wait for each other, and where other tests run beside
# them on the same cores a second becomes a minute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Commands in this process compile their kernels. In the first run after an installation `crysgen
# sample` would switch that off for the whole process, and the tests after it.
os.environ.setdefault("NUMBA_DISABLE_JIT", "0")

from hypothesis import HealthCheck, settings

# Machines that run tests are slow at times, and a failure must come again at the next run.
settings.register_profile(
    "crysmetrics",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("crysmetrics")
