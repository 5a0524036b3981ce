"""Images and batches: shards or folders read into memory, real and synthetic mixed, P x K. No network, no figures."""
