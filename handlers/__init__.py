"""What is done to an acquisition, a tile and a stack: functions that return reports and raise faults."""
