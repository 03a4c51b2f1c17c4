"""Times the steps of a training: how fast, of what the device can do, in how much memory."""
