"""The command line: one short module per verb, imported only when that verb runs."""
