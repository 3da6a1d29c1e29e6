"""What releases cost: Rényi divergences, their composition, and the budget that they may not exceed."""
