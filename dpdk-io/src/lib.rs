//! DPDK ports, L2 and the run-to-completion loop for mptcp-core.
