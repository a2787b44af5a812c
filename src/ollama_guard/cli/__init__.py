"""The commands; the only place that wires everything together."""
