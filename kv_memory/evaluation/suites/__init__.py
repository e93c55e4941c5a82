"""Suites: the sources of cases, one a file."""
