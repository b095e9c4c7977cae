"""The YAML files of every script, installed as ``circa_train_configs``."""
