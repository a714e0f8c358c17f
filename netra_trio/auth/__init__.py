"""Authentication: tokens, tickets and the identity that they carry."""
