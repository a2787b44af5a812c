"""A callback for the LiteLLM proxy: each request goes to the largest model that the guard allows now.

In the proxy's configuration, as ``ollama-guard litellm render`` writes it::

    litellm_settings:
      callbacks: ["ollama_guard.integrations.litellm.guard"]

A request for a tier of the guard's ladder is moved to the largest allowed tier at or below the one asked for.
Where that fails, LiteLLM's own fallbacks try the tiers below it, then one above, then those of its owner's
that are no tier. Where no tier is allowed and nothing else is left the client gets a 503 with Retry-After.
Models of no tier, embeddings, and everything while the guard is away are left alone.

Two environment variables: ``OLLAMA_GUARD_STATUS`` names another socket, or a file that ends in ``.json``;
``OLLAMA_GUARD_API_BASE`` says which of the servers in the configuration the guard's Ollama is (else all are).

How LiteLLM reads all this, as seen in 1.108.7: the hooks of ``integrations/custom_logger.py`` are called by
``proxy/utils.py`` (``ProxyLogging.pre_call_hook``) and by ``router.py``
(``async_callback_filter_deployments``, at each attempt, those of fallbacks too); a list of names in
``data["fallbacks"]`` goes before what is configured (``Router.async_function_with_fallbacks``);
``status_code`` and ``headers`` of what a hook raises become the answer's
(``proxy/common_request_processing.py``, ``handle_llm_api_exception``). What `async_filter_deployments` raises
is the attempt's error: by a status that is not to be retried (``utils.should_retry``) the next fallback comes
at once; where that was the last one `async_post_call_failure_hook`, which is called before the answer is made
of the error, makes a 503 of it. What that returns is not heard for ``/v1/messages``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from ollama_guard.integrations.asking import GuardView
from ollama_guard.integrations.routing import (
    AttemptRefused,
    Deployment,
    Rung,
    bases_in,
    forbidden_models,
    is_governed,
    model_of,
    ollama_name,
    own_fallbacks,
    routed,
    tier_of,
)

_log = logging.getLogger(__name__)
MARK = "ollama_guard"  # the key in a request's metadata that says what was decided


def proxys_deployments() -> list[Deployment]:
    """The ``model_list`` of the proxy that this runs in; its module is there whenever a hook is called."""
    return list(getattr(_router(), "model_list", None) or ())


def proxys_fallbacks() -> object:
    """What its configuration has under ``fallbacks``."""
    return getattr(_router(), "fallbacks", None)


def _router() -> object:
    return getattr(sys.modules.get("litellm.proxy.proxy_server"), "llm_router", None)


class OllamaGuard(CustomLogger):  # type: ignore[misc]  # LiteLLM is not installed where this is checked
    """The hooks: before a request, at each attempt, and for the answer's headers."""

    def __init__(
        self,
        view: GuardView | None = None,
        deployments: Callable[[], Iterable[Deployment]] = proxys_deployments,
        fallbacks: Callable[[], object] = proxys_fallbacks,
    ) -> None:
        super().__init__()
        self._view = view or GuardView()
        self._deployments = deployments
        self._fallbacks = fallbacks
        self._bases = bases_in(os.environ.get("OLLAMA_GUARD_API_BASE", ""))
        self._warned = False

    async def async_pre_call_hook(
        self, user_api_key_dict: object, cache: object, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Move the request, or refuse it where no tier is allowed.

        An embedding of another model is another thing, so these are never moved.
        """
        del user_api_key_dict, cache
        asked = data.get("model")
        ladder = await self._view.ladder() if "embedding" not in call_type else ()
        if not ladder or not isinstance(asked, str):
            return data
        rows = list(self._deployments())
        self._warn(ladder, rows)
        # LiteLLM's own fallbacks; whoever sent a list with the request keeps it.
        others = own_fallbacks(asked, data["fallbacks"] if "fallbacks" in data else self._fallbacks())
        if data.get("disable_fallbacks") is True:
            others = ()
        route = routed(asked, ladder, rows, others, self._bases)
        if route is None:
            return data
        data["model"] = route.group
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
        """Before each attempt: a tier that was allowed when the request came may not be so any more.

        Raises:
            AttemptRefused: nobody else serves this name.
        """
        del messages, parent_otel_span
        if _mark(request_kwargs or {}) is None:
            return healthy_deployments
        forbidden = forbidden_models(await self._view.ladder())
        left = [
            row
            for row in healthy_deployments
            if not (is_governed(row, self._bases) and model_of(row) in forbidden)
        ]
        if healthy_deployments and not left:
            rung = forbidden[model_of(healthy_deployments[0])]
            raise AttemptRefused(
                rung.reason, f"does not allow the tier {rung.name!r}, which serves {model!r}"
            )
        return left

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: object,
        traceback_str: str | None = None,
    ) -> None:
        """What the client gets where all attempts have been refused: the same as where none was made."""
        del request_data, user_api_key_dict, traceback_str
        if isinstance(original_exception, AttemptRefused):
            original_exception.told()

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
        ladder, model = await self._view.ladder(), model_of(row)
        tier = tier_of(model, ladder, mark["tier"]) if ladder else mark["tier"]
        told = {"model": model, "tier": tier} if tier else {"model": str(row["litellm_params"]["model"])}
        told["asked"] = mark["asked"]
        return {f"x-ollama-guard-{key}": _header(value) for key, value in told.items()}

    def _warn(self, ladder: Iterable[Rung], rows: Iterable[Deployment]) -> None:
        """Once, where the address that was written down fits no row, so that every request is left alone."""
        if not self._bases or self._warned:
            return
        known = {ollama_name(rung.model) for rung in ladder}
        if not any(is_governed(row, self._bases) and model_of(row) in known for row in rows):
            self._warned = True
            _log.warning(
                "OLLAMA_GUARD_API_BASE names %s, where no model_list row has a tier of the guard: "
                "no request is moved. Write it as api_base stands in the configuration.",
                ", ".join(sorted(self._bases)),
            )


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
