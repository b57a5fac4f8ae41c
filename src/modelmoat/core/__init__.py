"""What every layer stands on: errors, the registry, seeds, records and safe files."""
