"""What the installed LiteLLM reads of its configuration, found in itself: run by its own interpreter.

Prints JSON: for each section of the file the keys that have an effect there.
"""

import contextlib
import io
import json
import re
import types
from importlib.metadata import version
from pathlib import Path

with contextlib.redirect_stdout(io.StringIO()):
    import litellm
    from litellm.constants import ROUTER_SETTINGS_MANAGED_OUTSIDE_CONFIG
    from litellm.proxy._types import ConfigGeneralSettings

PROXY = Path(litellm.__file__).parent / "proxy"
SERVER = (PROXY / "proxy_server.py").read_text(encoding="utf-8")


def read_from(section: str) -> set[str]:
    """Keys that some module of the proxy takes out of a mapping of this name."""
    name = rf"\b_?{section}"
    patterns = [rf"""{name}\.get\(\s*["'](\w+)["']""", rf"""{name}\[["'](\w+)["']\]"""]
    patterns += [rf"""["'](\w+)["'] (?:not )?in {name}\b"""]
    found: set[str] = set()
    for file in PROXY.parent.rglob("*.py"):
        text = file.read_text(encoding="utf-8", errors="replace")
        for pattern in patterns:
            found |= set(re.findall(pattern, text))
    return found


def settings_of_the_module() -> set[str]:
    """What ``setattr(litellm, key, value)`` overwrites: variables, no functions, classes or modules."""
    kinds = (type, types.FunctionType, types.ModuleType, types.BuiltinFunctionType)
    names = {
        name
        for name, value in vars(litellm).items()
        if name == name.lower() and not name.startswith("_") and not isinstance(value, kinds)
    }
    return {name for name in names if not name.endswith(("_models", "_llms"))}


# `include` is resolved before anything else; the other two are of another table of the same name.
top_level = set(re.findall(r"""\bconfig(?:_data)?\.get\(\s*["'](\w+)["']""", SERVER)) | {"include"}
top_level -= {"force_reload", "interval_hours"}
loop = SERVER.partition("for key, value in litellm_settings.items():")[2].partition(
    "## GENERAL SERVER SETTINGS"
)[0]
handled = set(re.findall(r"""key == ["'](\w+)["']""", loop))
print(
    json.dumps(
        {
            "version": version("litellm"),
            "top": sorted(top_level),
            "router_settings": sorted(
                set(litellm.Router.get_valid_args()) - ROUTER_SETTINGS_MANAGED_OUTSIDE_CONFIG
            ),
            "general_settings": sorted(
                read_from("general_settings") | set(ConfigGeneralSettings.model_fields)
            ),
            "litellm_settings": sorted(read_from("litellm_settings") | settings_of_the_module() | handled),
        }
    )
)
