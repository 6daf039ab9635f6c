"""The rounds: who takes part, what is asked, what is accepted, what every listener hears.

No page, no printing and no wire.
"""
