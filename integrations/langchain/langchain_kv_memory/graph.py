"""Retraction from the model and from a LangGraph agent's state in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig

from langchain_kv_memory.chat_model import ErasableChatModel
from langchain_kv_memory.report import RetractionReport
from langchain_kv_memory.targets import Target


def retract_in_graph(
    graph: Any,
    model: ErasableChatModel,
    *targets: Target,
    config: RunnableConfig,
    as_node: str | None = None,
    **options: Any,
) -> RetractionReport:
    """Call `model.retract` for the graph's thread, then put the tombstones into its `messages`, under the same ids.

    The state is a new checkpoint; older ones of a saver that keeps them still hold the text. `as_node`: as the graph's
    `update_state`. `options`: as `model.retract`, whose errors it raises; ValueError too for a config without a thread,
    and for `wait=False`: tombstones can only be written of what was retracted.
    """
    _check(config, options)
    messages = graph.get_state(config).values.get("messages", [])
    report = model.retract(*targets, config=config, messages=messages, **options)
    changed = [] if options.get("dry_run") else report.tombstones(messages)
    if changed:
        graph.update_state(config, {"messages": changed}, as_node=as_node)
    return report


async def aretract_in_graph(
    graph: Any,
    model: ErasableChatModel,
    *targets: Target,
    config: RunnableConfig,
    as_node: str | None = None,
    **options: Any,
) -> RetractionReport:
    """Do the same as `retract_in_graph`, without blocking the event loop."""
    _check(config, options)
    messages = (await graph.aget_state(config)).values.get("messages", [])
    report = await model.aretract(*targets, config=config, messages=messages, **options)
    changed = [] if options.get("dry_run") else report.tombstones(messages)
    if changed:
        await graph.aupdate_state(config, {"messages": changed}, as_node=as_node)
    return report


def _check(config: RunnableConfig, options: Mapping[str, Any]) -> None:
    if "thread_id" not in config.get("configurable", {}):
        raise ValueError('The config has to name the thread: {"configurable": {"thread_id": ...}}.')
    if not options.get("wait", True):
        raise ValueError("The state is changed at once, so the retraction has to be: leave wait=False away here.")
