"""The capacity planner: what a facility's microscopes ask of servers. Pure arithmetic, from measured costs."""
