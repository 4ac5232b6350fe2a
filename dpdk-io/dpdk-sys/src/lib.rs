//! Flat bindings to libdpdk.
