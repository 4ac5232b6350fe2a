//! Counters under the Linux MIB names.
