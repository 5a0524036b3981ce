"""Pictures as files: contact sheets, marks of synthetic images, checks. No model and no metric."""
