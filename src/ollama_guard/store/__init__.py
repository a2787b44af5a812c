"""Files in which `hands` keep what was learnt: SQLite, one module per file. No threads and no log in here.

Every call opens its file, does its work and closes it again: a call that hangs on a dead disk leaves nothing
behind that a later one could trip over.
"""
