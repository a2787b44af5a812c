"""Which tiers of the ladder may be used: this moment's judgement, and how long a refusal lasts."""
