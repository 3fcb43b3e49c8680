"""From the pixels of one level to those of the next: area means, resize filters, block functions; in C or by numpy."""
