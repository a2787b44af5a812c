"""Which line a key stands on."""

import tomllib

from ollama_guard.settings.lines import key_lines, line_of

TEXT = '''# [not.a.table]
top = 1 # [nor.this]
"quoted key" = """
[inside]
a = "text" \\"""
"""
literal = \'\'\'
b = 2
\'\'\'
list = [
  "x", # ]
  { c = 3 },
]

  [ thresholds . "host" ]
soft = { below = "[20%", at_least = "#" }
hard.below = '10%'
[[models."a.b\\u0041"]]
preference = "omit"
[models."a.bA".deeper]
[[models."a.bA"]]
preference = "avoid"
'''


def test_each_key_has_the_line_that_names_it() -> None:
    tomllib.loads(TEXT)
    assert key_lines(TEXT) == {
        ("top",): 2,
        ("quoted key",): 3,
        ("literal",): 7,
        ("list",): 10,
        ("thresholds",): 15,
        ("thresholds", "host"): 15,
        ("thresholds", "host", "soft"): 16,
        ("thresholds", "host", "hard"): 17,
        ("thresholds", "host", "hard", "below"): 17,
        ("models",): 18,
        ("models", "a.bA"): 18,
        ("models", "a.bA", "0"): 18,
        ("models", "a.bA", "0", "preference"): 19,
        ("models", "a.bA", "0", "deeper"): 20,
        ("models", "a.bA", "1"): 21,
        ("models", "a.bA", "1", "preference"): 22,
    }


def test_a_key_in_an_inline_table_has_the_line_of_its_owner_and_an_unwritten_key_that_of_its_table() -> None:
    lines = key_lines(TEXT)
    assert line_of(lines, ("thresholds", "host", "soft", "below")) == 16
    assert line_of(lines, ("thresholds", "host", "critical")) == 15
    assert line_of(lines, ("policy", "mode")) is None
