"""The rows of the architecture table: real trained models of many kinds."""
