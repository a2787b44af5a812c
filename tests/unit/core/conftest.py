"""Property tests here are the same on every run in CI, and never judged by the clock of a busy machine.

Since they are the same there, more of them: what these do not come to, no run in CI ever does. A property of
whole tales takes some 50 ms of CPU time for each.
"""

import os

from hypothesis import HealthCheck, Phase, settings

CI = bool(os.environ.get("CI"))

settings.register_profile(
    "core",
    deadline=None,
    max_examples=150 if CI else 60,
    # Without `explain`, which traces every line and takes minutes where an example is a whole story.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    derandomize=CI,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("core")
