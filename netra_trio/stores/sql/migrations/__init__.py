"""The migrations of the schema, applied when a store is opened."""
