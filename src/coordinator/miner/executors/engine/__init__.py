"""The client of an engine: any server with OpenAI's HTTP API that the miner's owner runs.

vLLM, llama.cpp's server, Ollama, LocalAI, speaches and others have it. Each kind of work has settings of its
own, as one machine often runs several engines: LLM_ENGINE_URL, EMBEDDING_ENGINE_URL, RERANK_ENGINE_URL,
SPEECH_ENGINE_URL, TTS_ENGINE_URL and IMAGE_ENGINE_URL, and for each of them …_KEY, …_MODELS and
…_TIMEOUT_SECONDS.
"""

from coordinator.miner.executors.engine.client import Engine
from coordinator.miner.executors.engine.executor import EngineExecutor
from coordinator.miner.executors.engine.settings import EngineSettings

__all__ = ["Engine", "EngineExecutor", "EngineSettings"]
