"""What lies in a store, who needs it, and what may leave it: listing, pruning, forgetting a person or an image."""
