"""Run by Alembic for each command: the connection is the one that ``migrating`` has locked."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=None,
    transactional_ddl=True,  # SQLite's as well: ``database`` begins its transactions
)
context.run_migrations()
