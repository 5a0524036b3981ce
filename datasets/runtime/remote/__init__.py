"""Files and folders at fsspec addresses (s3://, gs://, https://): local copies that are checked, and publishing."""
