"""Which process is LiteLLM's proxy, which file it reads, and whether that leads to this Ollama."""

import pytest

from ollama_guard.cli.proxies import config_of, leads_to


@pytest.mark.parametrize(
    ("argv", "config"),
    [
        (["/usr/bin/python3", "/usr/local/bin/litellm", "--config", "/app/config.yaml", "--port", "4000"],
         "/app/config.yaml"),
        (["litellm", "--config=c.yaml"], "c.yaml"),
        (["litellm", "-c", "c.yaml", ""], "c.yaml"),
        (["litellm", "--model", "ollama/x"], ""),
        (["litellm", "--config"], ""),
        (["vim", "--config", "litellm"], ""),
        (["python3", "other.py", "litellm", "--config", "c.yaml"], ""),
        ([""], ""),
    ],
)  # fmt: skip
def test_its_own_command_line_tells(argv: list[str], config: str) -> None:
    assert config_of(argv) == config


@pytest.mark.parametrize(
    ("text", "url", "leads"),
    [
        ("api_base: http://127.0.0.1:11434", "http://127.0.0.1:11434", True),
        ("api_base: http://ollama:9000", "http://127.0.0.1:9000", True),
        ("model: ollama_chat/small", "http://127.0.0.1:11434", True),
        ("model: ollama_chat/small", "http://127.0.0.1:9000", False),
        ("model: openai/gpt-4", "http://127.0.0.1:11434", False),
        ("model: ollama/a\napi_base: http://other:80", "http://127.0.0.1:11434", False),
    ],
)
def test_only_one_that_leads_here_is_looked_at(text: str, url: str, leads: bool) -> None:  # noqa: FBT001
    assert leads_to(text, url) is leads
