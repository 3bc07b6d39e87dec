"""What the kernel asks of the world, as protocols; the docstrings are the contract that adapters are held to."""
