"""One module per foreign system, each behind a port; none knows another. They share `timed` and `foreign`.

Foreign exceptions are caught here and nowhere else, and become our own.
"""
