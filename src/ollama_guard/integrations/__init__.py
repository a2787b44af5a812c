"""What runs inside other programs, and what is written and checked for them: today the LiteLLM proxy.

``litellm`` is loaded by the proxy, in its own virtual environment. It, ``asking`` and ``routing`` need the
standard library and LiteLLM's base class, so that this package without its dependencies is enough there.
``config``, ``keys`` and ``check`` belong to the command line: text in, text out; they open no file and ask
nobody.
"""
