"""Pictures as files: contact sheets, marks, checks. No model."""
