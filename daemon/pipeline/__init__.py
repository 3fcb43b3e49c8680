"""The steps of a montage: order, schedule, effects, and the consequences of each outcome."""
