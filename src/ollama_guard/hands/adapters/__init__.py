"""One module per foreign system, each behind a port; none knows another, and `timed` is what they share.

Foreign exceptions are caught here and nowhere else, and become our own.
"""
