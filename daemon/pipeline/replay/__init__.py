"""Selection of montages, and their replay."""
