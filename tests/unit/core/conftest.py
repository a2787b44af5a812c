"""Property tests here are the same on every run in CI, and never judged by the clock of a busy machine."""

import os

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "core",
    deadline=None,
    max_examples=60,
    # Without `explain`, which traces every line and takes minutes where an example is a whole story.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("core")
