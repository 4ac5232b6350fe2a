//! A vdev that does not come up: DPDK starts without it, the driver does not.
//!
//! Needs an EAL, and so a process, of its own. Without libdpdk there is nothing to test that
//! `driver.rs` does not say.

#[cfg(have_dpdk)]
#[test]
fn a_vdev_that_did_not_come_up_is_an_error_that_names_it() {
    use dpdk_io::{Driver, DriverError, EalConfig, Hugepages, PortConfig};
    let words = [
        "--in-memory",
        "--no-pci",
        "--no-telemetry",
        "--log-level=3",
        "--vdev=net_null0",
        "--vdev=net_af_packet0,iface=plait-none",
    ];
    let eal = EalConfig {
        words: words.iter().map(|&word| word.to_owned()).collect(),
        hugepages: Hugepages::Off,
        memory_mb: 128,
        ..EalConfig::default()
    };
    // Not even configured as a port: it was asked for.
    let ports = vec![PortConfig {
        addresses: vec!["10.1.0.1/24".parse().unwrap()],
        ..PortConfig::new("lte", "net_null0")
    }];
    let error = Driver::start(eal.clone(), ports, Vec::new()).unwrap_err();
    let expected = DriverError::PortMissing {
        device: "net_af_packet0".to_owned(),
        present: vec!["net_null0".to_owned()],
    };
    assert_eq!(error, expected);
    assert_eq!(
        error.to_string(),
        "device net_af_packet0 did not come up (present: net_null0); check its --vdev arguments in \
         driver.eal, or its PCI driver binding"
    );
    assert!(!error.is_config());

    let other = EalConfig { memory_mb: 256, ..eal };
    let ports = vec![PortConfig::new("lte", "net_null0")];
    assert_eq!(Driver::start(other, ports, Vec::new()).unwrap_err(), DriverError::AlreadyStarted);
}
