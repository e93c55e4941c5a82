"""The mutants of `make mutants`: lines that a guarantee rests on, and the tests that must notice a change of them."""

from __future__ import annotations

from dataclasses import dataclass

LANGCHAIN = "integrations/langchain"


@dataclass(frozen=True)
class Mutant:
    """One change of one line, and the tests that must notice it."""

    what: str
    file: str
    line: str
    change: str
    tests: tuple[str, ...]


GUARANTEE, VERSIONS, ENFORCEMENT = "tests/test_guarantee.py", "tests/test_versions.py", "tests/test_enforcement.py"
HISTORIES = "tests/test_histories.py"
RECURRENT = "tests/engines/test_recurrent.py"
OPENED_AGAIN = "test_a_fork_that_is_opened_again_knows_tombstones_of_a_retraction_that_was_undone_before_it"
GUESSED = "test_a_text_that_was_retracted_as_it_is_is_not_guessed_by_a_report_to_be_what_is_left_of_another"
SESSIONS, CONVERSATION = "kv_memory/sessions", "kv_memory/conversation"
MUTANTS = (
    # the point of enforcement
    Mutant(
        "a branch is not checked before it answers",
        f"{SESSIONS}/session.py",
        "        enforce_beginning(state, branch, plan)\n        usage = ",
        "        usage = ",
        (ENFORCEMENT,),
    ),
    Mutant(
        "a branch is not checked after it was prefilled",
        f"{SESSIONS}/session.py",
        "while it was being prefilled\n        enforce(state, branch)\n",
        "while it was being prefilled\n",
        (ENFORCEMENT,),
    ),
    Mutant(
        "a copy is not checked",
        f"{SESSIONS}/session.py",
        "            enforce(other._state, copy)\n",
        "",
        (GUARANTEE,),
    ),
    Mutant(
        "what is strict is not erased exactly",
        f"{SESSIONS}/enforce.py",
        "    if any(reason.category in STRICT or handling.exact",
        "    if False and any(reason.category in STRICT or handling.exact",
        (ENFORCEMENT,),
    ),
    Mutant(
        "what other processes retract is not read before an answer",
        f"{SESSIONS}/state.py",
        "        self.records.refresh()\n        return self.host.originals.identify(",
        "        return self.host.originals.identify(",
        (GUARANTEE, VERSIONS),
    ),
    Mutant(
        "what another process has retracted is not passed on to a fork",
        f"{SESSIONS}/records.py",
        "        other.refresh()  # another process may have retracted there since\n",
        "",
        (f"{HISTORIES}::test_a_fork_lacks_what_another_process_has_retracted_just_before",),
    ),
    Mutant(
        "which of several equal messages is meant is looked up in the beginning of a conversation alone",
        f"{SESSIONS}/session.py",
        "        enforce_beginning(state, branch, plan)\n        usage = ",
        "        enforce(state, branch)\n        usage = ",
        (f"{HISTORIES}::test_of_two_equal_messages_the_other_one_stays_where_a_conversation_parts_between_them",),
    ),
    Mutant(
        "an empty message is taken for what is left of any other",
        f"{CONVERSATION}/originals.py",
        "and not self._named(message) and before not in self._after:",
        "and False:",
        (f"{HISTORIES}::test_an_empty_answer_is_not_taken_for_a_call_that_was_retracted_elsewhere",),
    ),
    Mutant(
        "a text that was read as it is is guessed to be what is left of another",
        f"{CONVERSATION}/originals.py",
        " and not (found[1] and sealed.identity in read()):",
        ":",
        (f"{HISTORIES}::test_a_text_that_was_read_as_it_is_is_not_guessed_to_be_what_is_left_of_another",),
    ),
    Mutant(
        "a message that is named in a history is taken for an equal one of another branch",
        f"{CONVERSATION}/targets.py",
        "(entry for entry in found if entry.serial == said.serial), None)",
        "iter(found), None)",
        (f"{HISTORIES}::test_a_message_that_is_named_in_a_history_is_not_an_equal_one_of_another_branch",),
    ),
    Mutant(
        "a message of which something is retracted gets no id",
        f"{SESSIONS}/branches.py",
        "        entry.message = replace(entry.message.with_ids_of(message)",
        "        entry.message = replace(entry.message if entry.cuts else entry.message.with_ids_of(message)",
        (f"{HISTORIES}::test_a_message_that_takes_the_place_of_an_equal_one_without_an_id_is_erased_alone",),
    ),
    Mutant(
        "the cells do not know that the version in the history lacks something",
        f"{SESSIONS}/branches.py",
        "with_ids_of(message), missing=message.missing)",
        "with_ids_of(message))",
        (
            f"{HISTORIES}::test_of_equal_messages_the_same_one_is_left_out_of_the_cells_as_of_a_history_with_a_tombstone",
        ),
    ),
    Mutant(
        "a tombstone is taken for an equal message that was retracted under another id",
        f"{CONVERSATION}/originals.py",
        "            if (here is None or known.digest in here) and known.fits_ids_of(message):",
        "            if here is None or known.digest in here:",
        (f"{HISTORIES}::test_a_tombstone_is_not_taken_for_an_equal_message_that_was_retracted_under_another_id",),
    ),
    # records
    Mutant(
        "a fork does not take over what the log holds",
        f"{SESSIONS}/records.py",
        "        self._unlogged = {**other._logged, **other._unlogged}",
        "        self._unlogged = {**other._unlogged}",
        (GUARANTEE, VERSIONS),
    ),
    Mutant(
        "a fork's log lacks what was undone before it",
        f"{SESSIONS}/records.py",
        "inherited, [*self._undone], origin",
        "inherited, [], origin",
        (
            f"{HISTORIES}::{OPENED_AGAIN}",
            f"{HISTORIES}::test_what_is_left_of_a_message_is_known_in_the_next_process_of_a_fork",
        ),
    ),
    Mutant(
        "a fork that fails keeps its id",
        f"{SESSIONS}/session.py",
        "            self._memory.delete_session(other.id)\n            raise\n",
        "            raise\n",
        ("tests/audit/test_memory.py",),
    ),
    Mutant(
        "what was undone in a copy, and in no log, is not passed on to a fork of it",
        f"{SESSIONS}/records.py",
        "        undone, in_force = [*(known.redaction for known in self._read), *self._undone], set(self.redactions)",
        "        undone, in_force = [known.redaction for known in self._read], set(self.redactions)",
        (f"{HISTORIES}::{OPENED_AGAIN}",),
    ),
    Mutant(
        "a fork logs again what the log holds under its id",
        f"{SESSIONS}/records.py",
        "        inherited = list(dict.fromkeys(redaction for _, redaction in self._unlogged))",
        "        inherited = self.redactions",
        (f"{HISTORIES}::test_a_fork_logs_what_it_began_with_and_not_what_its_own_log_holds",),
    ),
    Mutant(
        "a tombstone is not known where another session has retracted the same text as a message",
        f"{CONVERSATION}/originals.py",
        "            if (here is None or known.digest in here) and known.fits_ids_of(message):",
        "            if known.fits_ids_of(message):",
        (f"{HISTORIES}::test_a_tombstone_is_known_also_where_another_session_retracts_the_same_text_as_a_message",),
    ),
    Mutant(
        "a report leaves a version as it is where another session has retracted the same text as a message",
        f"{CONVERSATION}/tombstones.py",
        "identify(parsed, {redaction.digest for redaction in own}, originals.digests)",
        "identify(parsed)",
        (f"{HISTORIES}::test_a_tombstone_is_known_also_where_another_session_retracts_the_same_text_as_a_message",),
    ),
    Mutant(
        "a report guesses a text that was retracted as it is to be what is left of another",
        f"{CONVERSATION}/tombstones.py",
        " for redaction in own}, originals.digests)",
        " for redaction in own})",
        (f"{HISTORIES}::{GUESSED}",),
    ),
    Mutant(
        "the log lacks digests of parts that this process knew otherwise",
        f"{CONVERSATION}/originals.py",
        "        texts = original.texts()\n",
        "        held, texts = original.texts(), {}\n",
        (f"{HISTORIES}::test_what_is_left_of_a_message_is_known_in_the_next_process_after_a_copy_without_it",),
    ),
    Mutant(
        "a message whose id came from another history is not told by its place",
        f"{CONVERSATION}/redactions.py",
        "        if same_ids and ids != (None, None):",
        "        if ids != (None, None):",
        (f"{HISTORIES}::test_a_message_that_got_its_id_in_another_history_is_left_out_where_it_was",),
    ),
    Mutant(
        "what the log holds is not read again after an undo",
        f"{SESSIONS}/records.py",
        "        self._logged = {(known.retraction, known.redaction): None for known in logged if known.in_force}",
        "        self._logged |= {(known.retraction, known.redaction): None for known in logged if known.in_force}",
        (VERSIONS, "tests/audit/test_memory.py"),
    ),
    Mutant(
        "what an undo cuts off is no longer named by its id",
        f"{SESSIONS}/undo.py",
        "        enforce(state, state.branches.remember(branch))\n",
        "",
        ("tests/test_undo.py",),
    ),
    Mutant(
        "what an undo cuts off is remembered with what is in force",
        f"{SESSIONS}/undo.py",
        "enforce(state, state.branches.remember(branch))",
        "state.branches.remember(branch)",
        ("tests/test_undo.py",),
    ),
    Mutant(
        "undo takes every retraction of the text out of force",
        f"{SESSIONS}/records.py",
        "            for owner in [owner for owner in held if owner[0] == retraction]:",
        "            for owner in list(held):",
        (VERSIONS,),
    ),
    Mutant(
        "a retraction that was undone is forgotten, with its tombstones",
        f"{SESSIONS}/records.py",
        "        self._originals.learn(known.redaction for known in logged)",
        "        self._originals.learn(known.redaction for known in logged if known.in_force)",
        (VERSIONS,),
    ),
    Mutant(
        "rows are kept of a text that is retracted for privacy later",
        f"{SESSIONS}/retract.py",
        "    if plan.handling.category in STRICT:",
        "    if False:",
        (GUARANTEE, VERSIONS),
    ),
    Mutant(
        "digests are not keyed",
        f"{CONVERSATION}/originals.py",
        "identity=self.key.seal(message.digest()) if self.key else message.digest())",
        "identity=message.digest())",
        (VERSIONS, "tests/audit/test_memory.py", "tests/audit/test_secrets.py"),
    ),
    Mutant(
        "parts that may be mistaken for each other are read",
        f"{CONVERSATION}/redactions.py",
        " | redaction.cuts | messages[i].guessed",
        " | redaction.cuts",
        (VERSIONS,),
    ),
    Mutant(
        "a version is not put into the coordinates of its original",
        f"{CONVERSATION}/originals.py",
        "                if found is not None and found[0] and",
        "                if False and",
        (VERSIONS,),
    ),
    Mutant(
        "what the cells lack is not read again",
        f"{CONVERSATION}/alignment.py",
        "    return same(entry, message) and not entry.cuts - left_out",
        "    return same(entry, message)",
        (VERSIONS,),
    ),
    # messages
    Mutant(
        "the ledger keeps retracted text",
        f"{CONVERSATION}/ledger.py",
        "        entry.message = entry.message.overwritten(entry.cuts)\n",
        "",
        (ENFORCEMENT,),
    ),
    Mutant(
        "equal results of other calls are mixed up in the cache",
        f"{CONVERSATION}/alignment.py",
        "    if ids_differ(entry.message.tool_call_id, message.tool_call_id) or entry.message.role != message.role:",
        "    if entry.message.role != message.role:",
        ("tests/test_plan.py",),
    ),
    Mutant(
        "equal results of other calls are mixed up in what is retracted",
        f"{CONVERSATION}/redactions.py",
        "            and not ids_differ(self.tool_call_id, read.message.tool_call_id)\n",
        "",
        (VERSIONS,),
    ),
    Mutant(
        "equal messages without ids are not told apart by their place",
        f"{CONVERSATION}/redactions.py",
        "            if placed:",
        "            if False:",
        (VERSIONS,),
    ),
    Mutant(
        "a message that vanished stays in an old branch",
        f"{SESSIONS}/branches.py",
        "                old.evict()\n        return Usage(",
        "                pass\n        return Usage(",
        (GUARANTEE,),
    ),
    # branches, healing, engines
    Mutant(
        "a branch that answers is evicted",
        f"{SESSIONS}/memory.py",
        "if b is not keep and not b.busy)",
        "if b is not keep)",
        ("tests/test_room.py",),
    ),
    Mutant(
        "healing does not compare tokens",
        f"{SESSIONS}/heal.py",
        "takewhile(lambda pair: pair[0][1] == pair[1][1], same)",
        "takewhile(lambda pair: True, same)",
        ("tests/test_heal.py",),
    ),
    Mutant(
        "healing runs over steered cells",
        f"{SESSIONS}/heal.py",
        "if cell[0] >= start and cell[1] != STEERED]",
        "if cell[0] >= start]",
        ("tests/test_heal.py",),
    ),
    Mutant(
        "attention normalisers outlive a move",
        "kv_memory/engines/cells.py",
        "        self._order = None\n        self.log_normalisers.clear()\n",
        "        self._order = None\n",
        ("tests/engines/test_transformers.py",),
    ),
    Mutant(
        "an interrupted answer leaves its branch busy",
        f"{SESSIONS}/turn.py",
        "        branch.busy, branch.interrupt = False, None\n",
        "        branch.interrupt = None\n",
        (GUARANTEE,),
    ),
    Mutant(
        "a failing eraser keeps the others from erasing",
        f"{SESSIONS}/retraction_run.py",
        "        run_all(partial(self._erase, plan) for plan in plans if not plan.branch.busy)",
        "        [self._erase(plan) for plan in plans if not plan.branch.busy]",
        (GUARANTEE,),
    ),
    # the log and the integration
    Mutant(
        "an audit log that was emptied beside its key starts anew",
        "kv_memory/audit/log.py",
        "            if bound is not None and found != bound:",
        "            if False:",
        (GUARANTEE, "tests/audit"),
    ),
    Mutant(
        "a tool's pending retractions act as owner",
        f"{LANGCHAIN}/langchain_kv_memory/requests.py",
        '            requests.add("tool", decision.category, _target(decision), decision.reason)',
        '            requests.add("owner", decision.category, _target(decision), decision.reason)',
        (f"{LANGCHAIN}/tests/integration_tests/test_middleware.py",),
    ),
    Mutant(
        "tombstones keep additional_kwargs",
        f"{LANGCHAIN}/langchain_kv_memory/tombstones.py",
        '        "additional_kwargs": {},  # providers keep copies of calls and of what was thought there\n',
        "",
        (f"{LANGCHAIN}/tests/unit_tests/test_tombstones.py",),
    ),
    Mutant(
        "tombstones keep invalid tool calls",
        f"{LANGCHAIN}/langchain_kv_memory/tombstones.py",
        '        changed["invalid_tool_calls"] = []\n',
        "",
        (f"{LANGCHAIN}/tests/unit_tests/test_tombstones.py",),
    ),
    Mutant(
        "the second detector's characters are counted in the first one's result",
        f"{LANGCHAIN}/langchain_kv_memory/middleware.py",
        "reports.append(model.retract(*request.targets, messages=said,",
        "reports.append(model.retract(*request.targets, messages=messages,",
        (f"{LANGCHAIN}/tests/integration_tests/test_middleware.py",),
    ),
    # span ids
    Mutant(
        "a span id means whatever message has its text",
        f"{CONVERSATION}/span_numbers.py",
        "setdefault((before, message",
        "setdefault((None, message",
        ("tests/test_span_ids.py",),
    ),
    Mutant(
        "rows that were kept take messages that were read later for ones that saw the text",
        f"{SESSIONS}/kept_rows.py",
        "for entry in ledger.entries if entry in self._saw for",
        "for entry in ledger.entries for",
        ("tests/test_span_ids.py",),
    ),
    # llama.cpp
    Mutant(
        "other conversations stay in the context",
        "kv_memory/engines/llama_cpp/sequences.py",
        "            if other is not sequence and other.home is not None:",
        "            if False:",
        ("tests/engines/llama/test_alone.py",),
    ),
    Mutant(
        "cells stay where an edit has put them",
        "kv_memory/engines/llama_cpp/sequences.py",
        "        if not sequence.in_order:",
        "        if False:",
        ("tests/engines/llama/test_alone.py",),
    ),
    # recurrent layers
    Mutant(
        "a truncation leaves checkpoints that hold what was cut off",
        "kv_memory/engines/recurrent.py",
        "        self.checkpoints.cut(seq, start)\n        if cells",
        "        if cells",
        (RECURRENT,),
    ),
    Mutant(
        "a truncation leaves the state as it is",
        "kv_memory/engines/recurrent.py",
        "        self.checkpoints.cut(seq, start)\n        if cells < state.ran:",
        "        self.checkpoints.cut(seq, start)\n        if False:",
        (RECURRENT,),
    ),
    Mutant(
        "a checkpoint is overwritten by what runs after it",
        "kv_memory/engines/transformers/recurrent_cache.py",
        "    return tensor.to(own.device, copy=True)",
        "    return tensor.to(own.device)",
        (RECURRENT,),
    ),
    Mutant(
        "messages are not marked",
        "kv_memory/sessions/branch.py",
        "        self._mark(pieces, at)\n",
        "",
        ("tests/test_recurrent_sessions.py",),
    ),
    Mutant(
        "a grammar takes tokens that carry structure for text",
        f"{LANGCHAIN}/langchain_kv_memory/guidance_tokens.py",
        "sorted(table.structure)",
        "[]",
        (f"{LANGCHAIN}/tests/unit_tests/test_constrain.py",),
    ),
)
