"""Run by Alembic, with the connection that `sql_version.upgrade` hands it. Not to be imported."""

from alembic import context

from thoughtgear.adapters.sql_schema import metadata, schema_version

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=schema_version.name,
)
context.run_migrations()
