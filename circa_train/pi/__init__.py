"""Two parties, one network: private inference end to end."""
