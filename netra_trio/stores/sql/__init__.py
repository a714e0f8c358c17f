"""The SQL store: SQLite and PostgreSQL by SQLAlchemy Core."""
