"""Quality of a section: numbers of its tiles, the verdict on them, heatmaps. Does no input or output."""
