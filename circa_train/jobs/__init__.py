"""One module per script: from a configuration (``settings``) to a record, without Hydra."""
