"""What is known about GPT-SoVITS, as data and small pure functions over a checkpoint's tree."""
