"""The scripts, installed as ``circa_train_scripts`` behind the console commands ``circa-*``."""
