"""The machine and its processes: devices, launching, signals, timings."""
