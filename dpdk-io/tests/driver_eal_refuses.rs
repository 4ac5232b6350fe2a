//! EAL words that DPDK refuses: the error has the words and DPDK's reason, and is final.
//!
//! Needs an EAL, and so a process, of its own.

#[cfg(have_dpdk)]
#[test]
fn what_the_eal_refuses_is_reported_with_its_reason() {
    use dpdk_io::{Driver, DriverError, EalConfig, Hugepages, PortConfig};
    let words =
        ["--no-pci", "--no-shconf", "--no-telemetry", "--log-level=4", "--vdev=net_nosuch0"];
    let eal = EalConfig {
        words: words.iter().map(|&word| word.to_owned()).collect(),
        hugepages: Hugepages::Off,
        memory_mb: 64,
        ..EalConfig::default()
    };
    let ports = vec![PortConfig::new("lte", "net_nosuch0")];
    let error = Driver::start(eal.clone(), ports.clone(), Vec::new()).unwrap_err();
    let DriverError::Eal { words, reason } = &error else { panic!("{error}") };
    assert!(words.ends_with("--vdev=net_nosuch0 --no-huge --iova-mode=va --lcores=0@0 -m 64"));
    assert!(!reason.is_empty());
    assert!(error.to_string().ends_with("; check driver.eal"), "{error}");
    assert_eq!(Driver::start(eal, ports, Vec::new()).unwrap_err(), error);
}
