"""The checks of verify: functions that return what they found, or why they cannot be made of this file."""
