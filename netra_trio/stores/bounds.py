"""The bounds of history: docs/protocol.md, get_thread_history."""

HISTORY_TEXT_BYTES = 64 * 1024  # of an agent's message, in UTF-8
HISTORY_LISTED_BYTES = 512  # of a message without its text: ids, times and names, rounded up
HISTORY_PAGE_BYTES = 256 * 1024  # of a page
HISTORY_QUESTIONS_BYTES = 128 * 1024  # of the questions of a run
HISTORY_PROMPT_CHARACTERS = 200  # of a question that is shortened
