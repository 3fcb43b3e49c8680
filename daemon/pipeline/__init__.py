"""The steps of a montage: their order, their schedule, their effects, and what follows from each outcome."""
