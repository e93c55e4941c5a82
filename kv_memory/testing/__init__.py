"""Tests for engines outside this project: kv_memory.testing.conformance. Needs the extra `testing`."""

import pytest

pytest.register_assert_rewrite("kv_memory.testing.reference", "kv_memory.testing.conformance")
