"""What is heard of each phrase: by an adapter's attention, or by phones."""
