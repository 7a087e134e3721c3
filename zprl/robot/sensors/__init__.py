"""What a robot senses besides itself: cameras and pose trackers."""
