"""One adapter per outside system: origin, backing directory, residency index, catalog."""
