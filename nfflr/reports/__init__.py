"""Pages, tables and figures about training runs."""
