"""How words are spoken or spelled, for searches that write words."""
