"""What every part needs: commands, processes, event logs."""
