"""Text from language models: requests to engines, and their growing answers."""

from coordinator.miner.executors.llm.executor import LlmExecutor

__all__ = ["LlmExecutor"]
