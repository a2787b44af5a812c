"""What draws on terminals, for the demo and for the live view: bars, the screen, how a show is told to end.

What belongs here: how things look. What doesn't: what there is to see, and where it comes from.
"""
