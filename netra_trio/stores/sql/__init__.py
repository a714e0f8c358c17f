"""The SQL store: SQLite and PostgreSQL, with SQLAlchemy Core."""
