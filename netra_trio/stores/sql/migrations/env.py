"""The script that Alembic runs to migrate, on the connection and in the transaction it is given."""

from alembic import context

from netra_trio.stores.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
)
with context.begin_transaction():
    context.run_migrations()
