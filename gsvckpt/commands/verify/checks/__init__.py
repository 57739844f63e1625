"""The checks of verify: functions from what is known of a checkpoint to findings. They read nothing."""
