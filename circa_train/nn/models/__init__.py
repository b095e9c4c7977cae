"""The plain networks: by name (``registry``), their architectures, and their forms with fewer ReLUs."""
