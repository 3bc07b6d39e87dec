"""The pure model: facts, states, the tables of what may happen, and the decisions. Nothing here waits or looks."""
