"""What is done with packed datasets beside training: which clips are alike, and which are wanted."""
