"""Random histories of sessions against an oracle: the proof of the guarantee.

`oracle` says what may be visible, from the rules alone; `machine` makes the histories, `checks` compares. As a command,
`python -m tests.histories --histories 20000 --seed 7`, it reads more of them than the tests do.
"""
