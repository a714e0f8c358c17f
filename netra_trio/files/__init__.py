"""Files of messages: uploads, the files of agents, where their content is kept, and limits."""
