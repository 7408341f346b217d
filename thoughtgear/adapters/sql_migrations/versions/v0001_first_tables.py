"""The first tables. They were made whole before there were migrations, so that there is nothing to run:
`sql_version` takes over a database of that time."""

revision = "0001"
down_revision = None
