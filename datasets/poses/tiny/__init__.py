"""The built-in pose network of this project: a small one of OpenPose's kind for crops of one person."""
