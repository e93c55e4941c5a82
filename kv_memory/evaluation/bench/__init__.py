"""The bench: erasers and baselines on suites of cases, beside never-saw."""
