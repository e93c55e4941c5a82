"""`kv-memory demo`: a support agent reads a wrong price, which is then retracted."""

from __future__ import annotations

import json
from typing import Any

import typer

from kv_memory.cli._comparison import run_comparison
from kv_memory.cli._options import AsJson, Erasers, Model

Messages = list[dict[str, Any]]

STORY = (
    "A support agent looked the price of a desk up twice. The second result (call_4) was wrong: it is retracted from "
    "the model's cache after the model has read it and three more results."
)
TARGET = "call_4"
"""Id of the tool call whose result is retracted."""
QUESTION = "What is the price of SKU-7741?"
ERASED_ANSWER = "1.00"
TRUE_ANSWER = "249.00"


def _look_up(call_id: str, name: str, asked: str, result: Any, **arguments: str) -> Messages:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": call_id, "type": "function", "function": function}
    return [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": json.dumps(result)},
    ]


def _item(sku: str, name: str, price: str, **more: Any) -> dict[str, Any]:
    return {"sku": sku, "name": name, "price": price, **more}


MESSAGES: Messages = [
    {
        "role": "system",
        "content": "You are the support agent of a furniture shop. Answer from the tool results, with the value alone. "
        "Say unknown if it stands nowhere.",
    },
    *_look_up(
        "call_1",
        "get_customer",
        "Hi, I am customer C-2081.",
        {
            "customer_id": "C-2081",
            "name": "Ada Fenwick",
            "email": "ada.fenwick@example.com",
            "address": {"street": "14 Mill Lane", "city": "Leeds", "zip": "80412"},
            "member_since": "2019-04-02",
        },
        customer_id="C-2081",
    ),
    *_look_up(
        "call_2",
        "get_item",
        "Please look up SKU-7741.",
        _item("SKU-7741", "Oak desk", "249.00", stock=12, weight_kg=31, dimensions={"width": 140, "depth": 70}),
        sku="SKU-7741",
    ),
    *_look_up(
        "call_3",
        "list_orders",
        "And my orders?",
        [
            {"order_id": "W-5530", "item": "SKU-1108", "status": "delivered", "date": "2026-03-14"},
            {"order_id": "W-5812", "item": "SKU-3320", "status": "processing", "date": "2026-10-29"},
            {"order_id": "W-5907", "item": "SKU-4416", "status": "cancelled", "date": "2026-11-02"},
        ],
        customer_id="C-2081",
    ),
    *_look_up(
        "call_4",
        "get_item",
        "Is the desk's price still current? Look up SKU-7741 again.",
        _item("SKU-7741", "Oak desk", "1.00", promotion="PARTNER-TEST"),
        sku="SKU-7741",
    ),
    *_look_up(
        "call_5",
        "search_items",
        "I also need a lamp for it.",
        {
            "count": 3,
            "items": [
                _item("SKU-2210", "Desk lamp", "39.50", stock=4),
                _item("SKU-2214", "Floor lamp", "84.00", stock=0),
                _item("SKU-2219", "Clamp lamp", "27.90", stock=61),
            ],
        },
        query="lamp",
    ),
    *_look_up(
        "call_6",
        "get_delivery",
        "When could all that be here?",
        {"zip": "80412", "earliest": "2026-11-27", "carrier": "Norden Freight", "fee": "19.00", "floor": 2},
        zip="80412",
    ),
    *_look_up(
        "call_7",
        "get_order",
        "What about W-5812?",
        {"order_id": "W-5812", "status": "shipped", "tracking": "ZX884120", "parcels": 2, "eta": "2026-11-24"},
        order_id="W-5812",
    ),
]


def demo(eraser: Erasers = None, model: Model = None, as_json: AsJson = False) -> None:
    """Show an agent conversation in which a tool result is retracted after the model has read it."""
    if not as_json:
        typer.echo(f"{STORY}\n")
    run_comparison(MESSAGES, None, [TARGET], question=QUESTION, erasers=eraser or (), model=model, as_json=as_json)
