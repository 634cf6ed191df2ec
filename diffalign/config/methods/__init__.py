"""What a policy of each method sets, a file a method: `Settings`, without torch."""
