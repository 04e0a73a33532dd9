"""Services of the way of a read: flights, fetch, fill, readahead."""
