"""A callback for the LiteLLM proxy: each request goes to the largest model that the guard allows now.

In the proxy's configuration, as ``ollama-guard litellm render`` writes it::

    litellm_settings:
      callbacks: ["ollama_guard.integrations.litellm.guard"]

A request for a tier of the guard's ladder is moved to the largest allowed tier at or below the one asked for.
Where that fails, LiteLLM's own fallbacks try the tiers below it, then one above. Where no tier is allowed the
client gets a 503 with Retry-After. Models of no tier, embeddings, and everything while the guard is away are
left alone. The environment variable ``OLLAMA_GUARD_STATUS`` names another socket, or a status file that ends
in ``.json``.

How LiteLLM reads all this, as seen in 1.108.7: the hooks of ``integrations/custom_logger.py`` are called by
``proxy/utils.py`` (``ProxyLogging.pre_call_hook``) and by ``router.py``
(``async_callback_filter_deployments``, at each attempt, those of fallbacks too); a list of names in
``data["fallbacks"]`` goes before what is configured (``Router.async_function_with_fallbacks``);
``status_code`` and ``headers`` of what a hook raises become the answer's
(``proxy/common_request_processing.py``, ``handle_llm_api_exception``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from ollama_guard.integrations.asking import GuardView
from ollama_guard.integrations.routing import Deployment, model_of, ollama_name, routed

MARK = "ollama_guard"  # the key in a request's metadata that says what was decided


def proxys_deployments() -> list[Deployment]:
    """The ``model_list`` of the proxy that this runs in; its module is there whenever a hook is called."""
    proxy = sys.modules.get("litellm.proxy.proxy_server")
    return list(getattr(getattr(proxy, "llm_router", None), "model_list", None) or ())


class OllamaGuard(CustomLogger):  # type: ignore[misc]  # LiteLLM is not installed where this is checked
    """The hooks: before a request, at each attempt, and for the answer's headers."""

    def __init__(
        self,
        view: GuardView | None = None,
        deployments: Callable[[], Iterable[Deployment]] = proxys_deployments,
    ) -> None:
        super().__init__()
        self._view = view or GuardView()
        self._deployments = deployments

    async def async_pre_call_hook(
        self, user_api_key_dict: object, cache: object, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Move the request, or refuse it where no tier is allowed.

        An embedding of another model is another thing, so these are never moved.
        """
        del user_api_key_dict, cache
        asked = data.get("model")
        ladder = await self._view.ladder() if "embedding" not in call_type else ()
        route = routed(asked, ladder, self._deployments()) if ladder and isinstance(asked, str) else None
        if route is None:
            return data
        data["model"] = route.group
        # LiteLLM's own fallbacks; whoever sent a list with the request keeps it.
        data.setdefault("fallbacks", list(route.fallbacks))
        where = "litellm_metadata" if isinstance(data.get("litellm_metadata"), dict) else "metadata"
        data[where] = {**(data.get(where) or {}), MARK: {"asked": asked, "tier": route.tier}}
        return data

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: object,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: object = None,
    ) -> list[Any]:
        """Before each attempt: a tier that was allowed when the request came may not be so any more."""
        del model, messages, parent_otel_span
        if _mark(request_kwargs or {}) is None:
            return healthy_deployments
        forbidden = {ollama_name(rung.model) for rung in await self._view.ladder() if not rung.allowed}
        return [deployment for deployment in healthy_deployments if model_of(deployment) not in forbidden]

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: object,
        response: object,
        request_headers: object = None,
        litellm_call_info: dict[str, Any] | None = None,
    ) -> dict[str, str]:
        """Which model has served it, which tier that is, and what was asked for."""
        del user_api_key_dict, request_headers
        mark = _mark(data)
        if mark is None or response is None:
            return {}
        # The proxy writes down the deployment before it asks for headers; of an answer that is a dict
        # (/v1/messages) the call's information has nothing any more.
        deployment = getattr(data.get("deployment"), "model_info", None)
        served = (litellm_call_info or {}).get("model_id") or getattr(deployment, "id", None)
        row = next((each for each in self._deployments() if _id(each) == served), None) if served else None
        if row is None:
            return {}
        model = model_of(row)
        tier = next(
            (rung.name for rung in await self._view.ladder() if ollama_name(rung.model) == model),
            mark["tier"],
        )
        told = {"model": model, "tier": tier, "asked": mark["asked"]}
        return {f"x-ollama-guard-{key}": _header(value) for key, value in told.items()}


def _mark(request: Mapping[str, Any]) -> Mapping[str, str] | None:
    for key in ("metadata", "litellm_metadata"):
        metadata = request.get(key)
        mark = metadata.get(MARK) if isinstance(metadata, Mapping) else None
        # A client may send metadata of this name too: it gains nothing by that, and breaks nothing.
        if isinstance(mark, Mapping) and {"asked", "tier"} <= set(mark):
            return {key: str(mark[key]) for key in ("asked", "tier")}
    return None


def _id(deployment: Deployment) -> object:
    about = deployment.get("model_info")
    return about.get("id") if isinstance(about, Mapping) else None


def _header(value: str) -> str:
    """A client chose the name that it asked for: nothing of it may begin another header."""
    return "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in value)[:200]


guard = OllamaGuard()
