"""sifkit: run images you cannot change as if you could, and hold the changes as things.

This file stays empty of imports: every start-up pays for it.
"""

__version__ = "0.1.0"
