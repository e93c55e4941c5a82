"""A LangChain chat model that can erase from its KV cache what an agent should not have read."""

from kv_memory import CharRange, Memory, Span
from langchain_kv_memory.chat_model import ErasableChatModel
from langchain_kv_memory.documents import document_block, document_blocks, document_id
from langchain_kv_memory.graph import aretract_in_graph, retract_in_graph
from langchain_kv_memory.report import RetractionReport
from langchain_kv_memory.targets import Target

__all__ = [
    "CharRange",
    "ErasableChatModel",
    "Memory",
    "RetractionReport",
    "Span",
    "Target",
    "aretract_in_graph",
    "document_block",
    "document_blocks",
    "document_id",
    "retract_in_graph",
]
