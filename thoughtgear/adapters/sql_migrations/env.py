"""Run by Alembic, with the connection and the tables that `sql_version.upgrade` hands it: not to be
imported."""

from alembic import context

tables = context.config.attributes["tables"]
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=tables.schema_version.name,
)
context.run_migrations()
