"""Proposals: templates ranked by the library, decorated, or with species merged."""
