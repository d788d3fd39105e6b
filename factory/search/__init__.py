"""Evolution under hard budgets."""
