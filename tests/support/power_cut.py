#!/usr/bin/env python3
"""power_cut.py FOLDER: shuts down the ext4 file system that holds FOLDER, as if the power went.

Neither the journal nor dirty pages are written (EXT4_IOC_SHUTDOWN with
EXT4_GOING_FLAGS_NOLOGFLUSH); from then on every access fails with EIO until it is unmounted.
Needs root. Prints the moment at which it begins, in nanoseconds of CLOCK_MONOTONIC.
"""

import fcntl
import os
import struct
import sys
import time

EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2

folder = os.open(sys.argv[1], os.O_RDONLY)
moment = time.monotonic_ns()
fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
print(moment)
