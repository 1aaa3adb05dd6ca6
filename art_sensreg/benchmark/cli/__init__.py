"""The command lines of the suite and the audit."""
