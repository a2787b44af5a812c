"""From the owner's TOML file to one frozen `core.policy.Policy`, or sentences that say what is wrong.

What belongs here: reading that one file, its vocabulary, its mistakes, and the copies of the last
good one. What doesn't: anything that looks at the machine, and any decision.

* ``units``     "15%", "1.5GiB", "30s" to numbers and back
* ``schema``    the tables and keys, each with its reason and what it allows (with `thresholds`, `tables`)
* ``compiler``  TOML to policy, every problem at once
* ``effective`` policy to TOML
* ``last_good`` the copies that a start or a reload falls back to
* ``deadline``  for disks that hang

The modules are imported by name: this package itself imports nothing, so that ``units`` stays cheap.
"""
