"""What a round of the census takes where much is cached."""
