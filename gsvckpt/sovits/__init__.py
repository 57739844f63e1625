"""What is known of GPT-SoVITS, as data and small pure functions over a checkpoint's tree."""
