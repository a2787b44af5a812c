"""``python -m ollama_guard.testing.fake``: a fake Ollama in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from ollama_guard.testing.fake.durations import parse_environment
from ollama_guard.testing.fake.server import Place, Server
from ollama_guard.testing.fake.spec import Settings, parse_model

_CONTEXTS = {"new": 4096, "old": 2048}  # num_ctx on a CPU (facts 2.5; seen on a real v0.5.4)
_VERSIONS = {"new": "0.33.0", "old": "0.5.4"}
_AUTO_LOADED = 3  # OLLAMA_MAX_LOADED_MODELS=0 on a host without GPU (facts 2.5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ollama_guard.testing.fake", description=__doc__)
    parser.add_argument(
        "--host", default="127.0.0.1:11434", metavar="ADDRESS:PORT", help="port 0: any free one"
    )
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--dialect", choices=sorted(_VERSIONS), default="new")
    parser.add_argument("--version", help="what /api/version says")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=SIZE[,key=value]…")
    parser.add_argument("--remote", action="append", default=[], metavar="NAME", help="a cloud stub")
    parser.add_argument("--prefix", type=Path, default=Path("/usr/local"), help="shown before bin/ollama")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--start-delay", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--ledger", type=Path, help="a file to which each runner adds its PID and start time")
    parser.add_argument("--ready-fd", type=int, help="a descriptor that gets the ports as JSON")
    parser.add_argument("--leash-fd", type=int, help="a descriptor at whose end of file the server stops")
    return parser


def _settings(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    own = {key: value for key, value in environment.items() if key.startswith(("OLLAMA_", "LLAMA_ARG_"))}
    return Settings(
        models=tuple(parse_model(text) for text in options.model),
        remotes=tuple(options.remote),
        dialect=options.dialect,
        version=options.version or _VERSIONS[options.dialect],
        max_loaded=int(own.get("OLLAMA_MAX_LOADED_MODELS", "0")) or _AUTO_LOADED,
        parallel=int(own.get("OLLAMA_NUM_PARALLEL", "0")) or 1,
        max_queue=int(own.get("OLLAMA_MAX_QUEUE", "512")),
        context=int(own.get("OLLAMA_CONTEXT_LENGTH", "0")) or _CONTEXTS[options.dialect],
        keep_alive_seconds=parse_environment(own.get("OLLAMA_KEEP_ALIVE", ""), 300.0),
        environment=own,
    )


def main() -> None:
    """Parse the command line and serve."""
    parser = _parser()
    options = parser.parse_args()
    host, _, port = options.host.rpartition(":")
    try:
        settings = _settings(options, os.environ)
    except ValueError as error:
        parser.error(str(error))
    place = Place(
        host=host.strip("[]"),
        port=int(port),
        control_port=options.control_port,
        models_dir=options.models_dir,
        prefix=options.prefix,
        ledger=options.ledger,
        ready_fd=options.ready_fd,
        leash_fd=options.leash_fd,
        start_delay_seconds=options.start_delay,
    )
    asyncio.run(Server(place, settings).run())


if __name__ == "__main__":
    main()
