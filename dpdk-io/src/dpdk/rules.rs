//! Rules for single flows over `rte_flow`, on the ports that have it.
//!
//! Invariant: a rule keeps its port, and is destroyed before the port is closed.

use super::port::Port;
use crate::rules::FlowRules;
use core::net::{IpAddr, Ipv4Addr};
use core::ptr::NonNull;
use dpdk_sys::{Flow, RteFlow};
use mptcp_core::steering::Tuple;
use std::sync::Arc;

/// The ports of a driver that take rules.
pub(crate) struct PortRules(Vec<Arc<Port>>);

/// One flow's rule on one port.
pub(crate) struct Rule {
    port: Arc<Port>,
    rule: NonNull<RteFlow>,
}

// SAFETY: a rule is a handle that any thread may destroy: rte_flow takes a lock of its own for drivers that
// need one.
unsafe impl Send for Rule {}

impl PortRules {
    /// `None` when no port takes any: each is asked for one about addresses that nobody has (RFC 5737).
    pub(crate) fn probe(ports: &[Arc<Port>]) -> Option<Self> {
        let [local, remote] = [1, 2].map(|host| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)));
        let nobody =
            Tuple { local_addr: local, remote_addr: remote, local_port: 9, remote_port: 9 };
        let takes = |port: &&Arc<Port>| {
            port.rx_queue_count() > 1 && insert(port, &nobody, 1).map(destroy).is_some()
        };
        let ports: Vec<_> = ports.iter().filter(takes).cloned().collect();
        (!ports.is_empty()).then_some(Self(ports))
    }
}

impl FlowRules for PortRules {
    type Rule = Vec<Rule>;

    fn insert(&mut self, flow: &Tuple, shard: u8) -> Option<Vec<Rule>> {
        // Any address of ours is reached by any port.
        let rules: Vec<_> = self.0.iter().filter_map(|port| insert(port, flow, shard)).collect();
        (!rules.is_empty()).then_some(rules)
    }

    fn remove(&mut self, rule: Vec<Rule>) {
        rule.into_iter().for_each(destroy);
    }
}

fn insert(port: &Arc<Port>, tuple: &Tuple, shard: u8) -> Option<Rule> {
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => {
            let mut all = [0; 16];
            all[..4].copy_from_slice(&v4.octets());
            all
        }
        IpAddr::V6(v6) => v6.octets(),
    };
    // As it arrives: from the peer.
    let flow = Flow {
        src: octets(tuple.remote_addr),
        dst: octets(tuple.local_addr),
        src_port: tuple.remote_port,
        dst_port: tuple.local_port,
        v6: tuple.local_addr.is_ipv6().into(),
    };
    let queue = u16::from(shard) % port.rx_queue_count().max(1);
    let mut error = 0;
    // SAFETY: the port is started while `port` lives; `flow` is complete.
    let rule = unsafe {
        dpdk_sys::dio_flow_create(port.dpdk_id(), &raw const flow, queue, &raw mut error)
    };
    Some(Rule { port: Arc::clone(port), rule: NonNull::new(rule)? })
}

fn destroy(rule: Rule) {
    // SAFETY: made on this port, which is started, and given up here.
    let ret = unsafe { dpdk_sys::dio_flow_destroy(rule.port.dpdk_id(), rule.rule.as_ptr()) };
    if ret != 0 {
        log::debug!("device {}: a rule stays: {}", rule.port.device(), super::reason(ret));
    }
}
