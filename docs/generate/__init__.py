"""What ``make docs`` writes: documents that are made from the code, so that they can't drift from it.

* ``keys``      the keys of the configuration with their texts, out of `ollama_guard.settings.schema`
* ``markup``    those texts as a comment of TOML, as Markdown, as roff
* ``settings``  the shipped file, the reference, and ollama-guard.toml(5)
* ``commands``  the commands of ollama-guard(8), out of the typer app
* ``templates`` the parts that are written by hand; a line ``@NAME@`` is where a made part goes
"""
