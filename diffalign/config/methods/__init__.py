"""The settings of each method's policies, a file a method: `Settings`, without torch."""
