"""Where formats, transforms, devices and files meet: open, examine, write, read, compare, load."""
