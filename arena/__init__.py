"""The arena: a web page on which people compare policies' images blindly, and the export of their votes."""
