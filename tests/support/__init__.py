"""What the tests share: a server in virtual time, and clients that talk to it."""
