"""An agent whose model nobody plays: the pocket model calls a tool, and answers from its result."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from langchain_kv_memory import ErasableChatModel


@tool
def get_weather(location: str) -> str:
    """Get the weather at a location."""
    return f'{{"location": "{location}", "weather": "sunny", "degrees": 21}}'


def test_the_pocket_model_calls_a_tool_and_answers_from_its_result(model: ErasableChatModel) -> None:
    agent = create_agent(model, [get_weather])
    asked = HumanMessage("Get the weather for London and tell me the degrees.")
    said = agent.invoke({"messages": [asked]}, {"configurable": {"thread_id": "weather"}})["messages"]
    assert [type(message) for message in said] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert said[1].tool_calls[0]["args"] == {"location": "London"}
    assert said[3].content == "21"
