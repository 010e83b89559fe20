"""What a network is turned into, for use without fastbp."""
