"""An agent's thread in SQLite, carried on by a new process."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, ToolMessage
from langgraph.checkpoint.sqlite import SqliteSaver

from langchain_kv_memory import ErasableChatModel, retract_in_graph

from .orders import QUESTION, RESULT, STATUS, holds, lookup, thread

CONFIG = thread("t")
DESK = Document("The price of SKU-7741 is 249.00.", id="doc-desk")
LAMP = Document("The weight of SKU-2210 is 39 kg.", id="doc-lamp")


def agent_over(model: ErasableChatModel, file: Path) -> Any:
    return create_agent(model, [], checkpointer=SqliteSaver(sqlite3.connect(file, check_same_thread=False)))


def carry_on(file: Path) -> dict[str, Any]:
    """What the new process sees and does."""
    model = ErasableChatModel(max_tokens=8)
    agent = agent_over(model, file)
    before = str(agent.get_state(CONFIG).values["messages"])
    agent.invoke({"messages": [HumanMessage(QUESTION)]}, CONFIG)
    read = [holds(model, text, CONFIG) for text in (STATUS, DESK.page_content, LAMP.page_content)]
    documents = [span.document_id for span in model.spans(config=CONFIG) if span.kind == "document"]
    report = retract_in_graph(agent, model, "doc-desk", config=CONFIG, reason="outdated")
    agent.invoke({"messages": [HumanMessage(QUESTION)]}, CONFIG)
    later = [holds(model, text, CONFIG) for text in (STATUS, DESK.page_content, LAMP.page_content)]
    state = str(agent.get_state(CONFIG).values["messages"])
    return {
        "status there": "delivered" in before,
        "read": read,
        "documents": documents,
        "erased": report.tokens_erased,
        "later": later,
        "price there": "249.00" in state,
        "lamp there": "39 kg" in state,
    }


def test_a_new_process_carries_on(model: ErasableChatModel, tmp_path: Path) -> None:
    file = tmp_path / "threads.sqlite"
    agent = agent_over(model, file)
    documents = lookup(f"{DESK.page_content}\n\n{LAMP.page_content}", "call_2")
    assert isinstance(documents[2], ToolMessage)
    documents[2].artifact = [DESK, LAMP]
    asked = [*lookup(), *documents, HumanMessage(QUESTION)]
    agent.invoke({"messages": asked}, CONFIG)
    assert holds(model, STATUS, CONFIG)
    report = retract_in_graph(agent, model, "call_1", config=CONFIG, reason="wrong status", mode="exact")
    assert report.exact
    repeated = retract_in_graph(agent, model, report.derived[-1], config=CONFIG, mode="exact")
    assert [span.kind for span in repeated.spans] == ["assistant"]  # it may have repeated the status
    state = agent.get_state(CONFIG)
    assert "delivered" not in str(state.values["messages"])
    assert state.next == ()

    here = Path(__file__).parents[2]
    code = "import json, sys; from pathlib import Path; from tests.integration_tests.test_checkpoint import carry_on; "
    code += "print(json.dumps(carry_on(Path(sys.argv[1]))))"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen.pop("erased") > 5
    assert seen == {
        "status there": False,
        "read": [False, True, True],
        "documents": ["doc-desk", "doc-lamp"],
        "later": [False, False, True],
        "price there": False,
        "lamp there": True,
    }


def test_a_dry_run_leaves_the_state(model: ErasableChatModel, tmp_path: Path) -> None:
    agent = agent_over(model, tmp_path / "threads.sqlite")
    agent.invoke({"messages": [*lookup(), HumanMessage(QUESTION)]}, CONFIG)
    report = retract_in_graph(agent, model, "call_1", config=CONFIG, dry_run=True)
    assert report.status == "planned"
    assert RESULT in str(agent.get_state(CONFIG).values["messages"])
