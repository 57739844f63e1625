"""The checks of verify: functions from facts about a checkpoint to findings. They read nothing."""
