"""The database: engine, tables, migrations, and the one place where a transaction is retried."""
