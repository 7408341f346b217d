"""The Temporal activities: thin; they call the handler and map errors to Temporal's."""
