"""From curated samples to an adapter: what a batch is, the objective, and what training draws anew for each sample."""
