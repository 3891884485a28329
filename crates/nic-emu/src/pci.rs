//! Plain description of a PCI function, for whoever puts the device on a bus.
