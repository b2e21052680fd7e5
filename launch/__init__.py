"""The commands. Installed they are `unisign_fast.launch`, and `unisign-fast NAME` runs `launch/NAME.py`."""
