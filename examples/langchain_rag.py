"""A RAG chat whose document is updated in the index while the conversation goes on."""

import re
import time
import zlib

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore

from kv_memory import Policy
from langchain_kv_memory import ErasableChatModel, RetractionReport, document_blocks
from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.rag import TrackedRecordManager, TrackedRetriever


class HashedWords(Embeddings):
    """Counts of hashed words: enough to find texts that share words with a question, and nothing to download."""

    def embed_query(self, text: str) -> list[float]:
        """The counts of one text."""
        words = [zlib.crc32(word.encode()) % 256 for word in re.findall(r"[\w-]+", text.lower())]
        return [float(words.count(place)) for place in range(256)]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The counts of each text."""
        return [self.embed_query(text) for text in texts]


def tell(report: RetractionReport) -> None:
    """Print what a retraction did."""
    done = f"{report.tokens_erased} tokens erased, {report.tokens_recomputed} recomputed"
    print(f"       ({report.reason}: {done}, {1000 * report.seconds:.0f} ms, {report.status})")


def main() -> None:
    """Run the conversation."""
    # answers that rest on a page that is withdrawn are withdrawn with it
    model = ErasableChatModel(on_retract=tell, policy=Policy(cascade="retract"))
    changes = DocumentChanges(model)
    store = InMemoryVectorStore(HashedWords())
    records = TrackedRecordManager(InMemoryRecordManager("manual"), changes)
    retriever = TrackedRetriever(retriever=store.as_retriever(search_kwargs={"k": 2}), changes=changes)
    history: list[BaseMessage] = []

    def write(*texts: str) -> None:
        pages = [Document(text, metadata={"about": text.split()[3]}) for text in texts]
        index(pages, records, store, cleanup="incremental", source_id_key="about", key_encoder="sha256")

    def answer(thread: str, messages: list[BaseMessage]) -> BaseMessage:
        started = time.perf_counter()
        said = model.invoke(messages, {"configurable": {"thread_id": thread}})
        seconds = time.perf_counter() - started
        used = said.response_metadata["kv_memory"]
        cost = f"{used['prefilled']} tokens prefilled, {used['reused']} in the cache, {used['left_out']} left out"
        print(f"model: {said.text}    [{cost}; {1000 * seconds:.0f} ms]")
        return said

    def ask(question: str, *, retrieve: bool = True) -> None:
        print(f"\nuser:  {question}{'' if retrieve else '  (nothing retrieved)'}")
        found = document_blocks(retriever.invoke(question)) if retrieve else []
        history.append(HumanMessage([*found, question]))
        history.append(answer("ada", history))

    write("The fee of Z-3 is 19.00.", "The owner of P-310 is Ada Fenwick.")
    ask("What is the fee of Z-3?")
    ask("What is the owner of P-310?")
    print("\n(the index gets a new page about Z-3)")
    write("The fee of Z-3 is 32.00.")
    ask("What is the fee of Z-3?", retrieve=False)
    ask("What is the fee of Z-3?")
    print("\nThe same in a new thread, with the old page:")
    answer("new", history[:-1])


if __name__ == "__main__":
    main()
