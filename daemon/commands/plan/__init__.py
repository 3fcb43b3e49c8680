"""The capacity planner: compute the load of microscopes and the number of servers from measured costs."""
