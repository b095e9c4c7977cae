"""What jobs leave behind: the run folder, its metrics, and the table over many of them."""
