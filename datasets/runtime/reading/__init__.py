"""What others may have written, read with bounds: JSON, names, and the files of finished artifacts."""
