//! A vfio-user server for emulated PCI devices, and a client.
