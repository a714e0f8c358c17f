"""What every server is asked to do: the text of a stream.

>>> len(TOKENS)
200
"""

TOKENS = ("lorem ", "ipsum ", "dolor ", "sit ", "amet ") * 40
"""What a stream emits, one event each."""
