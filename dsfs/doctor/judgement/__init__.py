"""Verdicts on what was measured: pure functions of values, one module for each area.  The bounds stand here."""
