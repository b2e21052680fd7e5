"""Where each joint looks: its query, and its keypoint plus a learned offset."""
