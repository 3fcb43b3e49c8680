"""Quality of a section: numbers of its tiles, the verdict on them, heatmaps. No input or output."""
