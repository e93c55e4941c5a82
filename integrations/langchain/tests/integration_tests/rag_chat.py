"""A chat over an index, whose application keeps every message as it was."""

from __future__ import annotations

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever

from langchain_kv_memory import ErasableChatModel, document_blocks

from .orders import thread


class Chat:
    """A conversation whose questions quote what the retriever finds."""

    def __init__(self, model: ErasableChatModel, retriever: BaseRetriever, name: str = "t") -> None:
        self.model, self.retriever = model, retriever
        self.history: list[BaseMessage] = []
        self.thread = thread(name)

    def ask(self, question: str, *, look_up: bool = True) -> str:
        found = document_blocks(self.retriever.invoke(question)) if look_up else []
        self.history.append(HumanMessage([*found, {"type": "text", "text": question}]))
        self.history.append(self.model.invoke(self.history, self.thread))
        return self.history[-1].text

    def documents(self) -> list[tuple[str, int]]:
        """The id of each document that was read, and how many cells it occupies now."""
        return [(str(s.document_id), s.tokens) for s in self.model.spans(config=self.thread) if s.document_id]
