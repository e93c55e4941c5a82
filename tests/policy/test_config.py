"""Policy files: what they can say, and the sentence for what they cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory import SpanKind
from kv_memory.errors import PolicyError
from kv_memory.policy import Policy

TOML = """
latency_ms = 50
residual = 0.1
agreement = 0.99
heal = "now"
cascade = "retract"
keep_undo = true

[categories.privacy]
exact = true
heal = "never"

[authority]
tool = ["tool_result", "user"]

[[retract]]
rule = "superseded"
arguments = ["order_id"]

[[retract]]
rule = "time_to_live"
seconds = 60
tools = ["get_price"]

[[retract]]
rule = "tool_error"
error_prefixes = ["Error"]

[[retract]]
rule = "invalidated"
by = { cancel_order = ["get_order"] }
"""
YAML = """
latency_ms: 50
residual: 0.1
agreement: 0.99
heal: now
cascade: retract
keep_undo: true
categories:
  privacy: {exact: true, heal: never}
authority:
  tool: [tool_result, user]
retract:
  - {rule: superseded, arguments: [order_id]}
  - {rule: time_to_live, seconds: 60, tools: [get_price]}
  - {rule: tool_error, error_prefixes: [Error]}
  - {rule: invalidated, by: {cancel_order: [get_order]}}
"""


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(PolicyError) as error:
        Policy.of(values, "p.toml")
    text = str(error.value)
    assert text.startswith("p.toml: ")
    assert "\n" not in text
    return text.removeprefix("p.toml: ")


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(TOML)
    (tmp_path / "p.yaml").write_text(YAML)
    policy = Policy.load(tmp_path / "p.toml")
    assert policy == Policy.load(str(tmp_path / "p.yaml"))
    assert (policy.latency_ms, policy.keep_undo) == (50, True)
    assert policy.authority.tool == (SpanKind.TOOL_RESULT, SpanKind.USER)
    assert [rule.name for rule in policy.rules()] == ["superseded", "time_to_live", "tool_error", "invalidated"]
    privacy, other = policy.handling("privacy"), policy.handling("because")
    assert (privacy.exact, privacy.heal, privacy.cascade, privacy.latency_ms) == (True, "never", "retract", 50)
    assert (other.exact, other.heal) == (False, "now")


@pytest.mark.parametrize("name", ["p.toml", "p.yaml"])
def test_an_empty_file_is_the_policy_without_settings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("# nothing yet\n")
    assert Policy.load(tmp_path / name) == Policy()
    assert (Policy().heal, Policy().cascade, Policy().keep_undo) == ("idle", None, False)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"latency": 5}, "latency is not a field; allowed there are latency_ms, residual, agreement, heal,"),
        ({"latency_ms": 0}, "latency_ms is 0; it has to be greater than 0."),
        ({"latency_ms": "5"}, "latency_ms is '5'; it has to be a valid number."),
        ({"latency_ms": float("inf")}, "latency_ms is inf; it has to be a finite number."),
        ({"residual": float("nan")}, "residual is nan; it has to be a finite number."),
        ({"agreement": 2}, "agreement is 2; it has to be less than or equal to 1."),
        ({"heal": "later"}, "heal is 'later'; it has to be 'idle', 'now' or 'never'."),
        ({"cascade": True}, "cascade is True; it has to be 'report', 'retract' or 'regenerate'."),
        ({"keep_undo": "yes"}, "keep_undo is 'yes'; it has to be a valid boolean."),
        ({"categories": {"safety": {}}}, "categories.safety is 'safety'; it has to be 'security', 'privacy',"),
        (
            {"categories": {"stale": {"exat": True}}},
            "categories.stale.exat is not a field; allowed there are latency_ms",
        ),
        ({"categories": {"stale": {"exact": 1}}}, "categories.stale.exact is 1; it has to be a valid boolean."),
        (
            {"authority": {"tools": []}},
            "authority.tools is not a field; allowed there are user, tool, policy, session.",
        ),
        (
            {"authority": {"tool": ["users"]}},
            "authority.tool[0] is 'users'; it has to be 'system', 'user', 'assistant'",
        ),
        ({"authority": {"tool": ["range"]}}, "authority.tool is wrong: 'range' is no kind of its own; list the kind"),
        ({"retract": [{"rule": "supersede"}]}, "retract[0].rule is 'supersede'; it has to be one of 'superseded', "),
        (
            {"retract": [{}]},
            "retract[0].rule is missing; name one of superseded, tool_error, time_to_live, invalidated.",
        ),
        (
            {"retract": [{"rule": "tool_error"}, {"rule": "superseded", "tool": ["x"]}]},
            "retract[1].tool is not a field;",
        ),
        ({"retract": [{"rule": "time_to_live"}]}, "retract[0] is wrong: a time_to_live rule needs seconds or turns."),
        (
            {"retract": [{"rule": "time_to_live", "seconds": -1}]},
            "retract[0].seconds is -1; it has to be greater than 0.",
        ),
        ({"retract": {"rule": "tool_error"}}, "retract is {'rule': 'tool_error'}; it has to be a valid tuple."),
        ({"heal": "later", "latency": 5}, "heal is 'later' (and 1 more); it has to be 'idle', 'now' or 'never'."),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(values: dict[str, Any], says: str) -> None:
    assert refused(values).startswith(says)


@settings(deadline=None)
@given(
    st.sampled_from(["", "categories.stale", "authority"]), st.from_regex(r"[a-z]{1,3}_[a-z0-9]{1,8}x", fullmatch=True)
)
def test_any_unknown_field_is_named(where: str, name: str) -> None:
    values: dict[str, Any] = {name: 1}
    for key in reversed(where.split(".") if where else []):
        values = {key: values}
    assert refused(values).startswith(f"{f'{where}.' if where else ''}{name} is not a field; allowed there are ")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.toml", "heal = ", "p.toml is not TOML: "),
        ("p.yaml", "heal: [", "p.yaml is not YAML: "),
        ("p.yaml", "- heal", "p.yaml holds no fields but a list"),
        ("p.json", "{}", "p.json is not a policy file by its name; it has to end in .toml, .yaml or .yml."),
        ("p.toml", "heel = 'idle'", "p.toml: heel is not a field; allowed there are "),
        ("p.yml", "heal: later", "p.yml: heal is 'later'; it has to be 'idle', 'now' or 'never'."),
    ],
)
def test_what_is_no_policy_file(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PolicyError) as error:
        Policy.load(tmp_path / name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"none\.toml cannot be read: No such file"):
        Policy.load(tmp_path / "none.toml")
    (tmp_path / "p.toml").write_bytes(b"\xff")
    with pytest.raises(PolicyError, match="is not UTF-8"):
        Policy.load(tmp_path / "p.toml")


def test_yaml_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.yaml").write_text(YAML)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(PolicyError, match=r"needs PyYAML; install kv-memory\[yaml\]"):
        Policy.load(tmp_path / "p.yaml")


def test_the_example_in_the_documentation() -> None:
    assert Policy.__doc__
    import tomllib

    text = Policy.__doc__.split("```toml\n")[1].split("```")[0]
    assert Policy.of(tomllib.loads("\n".join(line.strip() for line in text.splitlines()))).latency_ms == 50
