#!/bin/sh
# Called for every kernel event: loads the driver of a PCI device that was plugged in.
[ "$ACTION" = add ] && [ -n "$MODALIAS" ] && modprobe -qb "$MODALIAS"
