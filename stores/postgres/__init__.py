"""PostgreSQL: migrations and one module of plain SQL functions per table or job."""
