"""The process that owns every foreign system: it may be slow, may hang, may be restarted.

Belongs here: lanes with total deadlines, adapters, the control and status faces. Must not: decide
(that is `core`), or kill (that is the sentinel's).
"""
