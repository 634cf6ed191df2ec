"""One file a preference data set, and what they share."""
