//! Rules of ports that put a flow into its owner's queue: a subflow that joined another shard's connection
//! then need not cross. Off the data path, for ports that have such rules (`rte_flow`).
//!
//! Invariant: nothing depends on a rule. Without one, or with one that is out of date, steering finds the
//! owner all the same; so there are as many as there is room for, and the oldest makes place.

use mptcp_core::steering::{SteeringNote, Tuple};
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Rules at a time.
#[cfg(have_dpdk)]
pub(crate) const MAX_RULES: usize = 1024;
/// Notes that may wait.
const MAX_WAITING: usize = 256;

/// What makes rules.
pub(crate) trait FlowRules {
    /// What undoes one.
    type Rule;
    /// Puts what arrives of `flow` into the queue of `shard`; `None` when no port does.
    fn insert(&mut self, flow: &Tuple, shard: u8) -> Option<Self::Rule>;
    /// Undoes it.
    fn remove(&mut self, rule: Self::Rule);
}

struct Kept<R> {
    rule: R,
    owner: u8,
    age: u64,
}

/// The rules there are.
pub(crate) struct RuleTable<F: FlowRules> {
    ports: F,
    most: usize,
    kept: HashMap<Tuple, Kept<F::Rule>>,
    /// Their flows, the oldest first.
    by_age: BTreeMap<u64, Tuple>,
    next_age: u64,
}

impl<F: FlowRules> RuleTable<F> {
    /// None yet, `most` at a time.
    pub(crate) fn new(ports: F, most: usize) -> Self {
        Self { ports, most, kept: HashMap::new(), by_age: BTreeMap::new(), next_age: 0 }
    }

    /// Somebody has, or no longer has, a flow whose home is another shard.
    pub(crate) fn apply(&mut self, note: &SteeringNote) {
        match self.kept.get(&note.tuple).map(|kept| kept.owner) {
            Some(owner) if owner == note.owner && note.joined => return,
            Some(owner) if owner == note.owner || note.joined => self.remove(&note.tuple),
            _ => {}
        }
        if !note.joined {
            return;
        }
        if self.kept.len() == self.most
            && let Some(oldest) = self.by_age.first_key_value().map(|(_, tuple)| *tuple)
        {
            self.remove(&oldest);
        }
        if let Some(rule) = self.ports.insert(&note.tuple, note.owner) {
            let age = self.next_age;
            self.next_age += 1;
            self.by_age.insert(age, note.tuple);
            self.kept.insert(note.tuple, Kept { rule, owner: note.owner, age });
        }
    }

    fn remove(&mut self, tuple: &Tuple) {
        if let Some(kept) = self.kept.remove(tuple) {
            self.by_age.remove(&kept.age);
            self.ports.remove(kept.rule);
        }
    }
}

impl<F: FlowRules> Drop for RuleTable<F> {
    fn drop(&mut self) {
        for (_, kept) in self.kept.drain() {
            self.ports.remove(kept.rule);
        }
    }
}

/// How shards ask for rules: homes pass on what owners tell them. What finds no room is not done.
pub(crate) fn orders() -> (SyncSender<SteeringNote>, Receiver<SteeringNote>) {
    sync_channel(MAX_WAITING)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Ports that write down what they are told.
    #[derive(Clone, Default)]
    pub(crate) struct Mock {
        pub(crate) rules: Arc<Mutex<BTreeMap<u16, u8>>>,
        full: bool,
    }

    impl FlowRules for Mock {
        type Rule = u16;

        fn insert(&mut self, flow: &Tuple, shard: u8) -> Option<u16> {
            if self.full {
                return None;
            }
            let other = self.rules.lock().unwrap().insert(flow.remote_port, shard);
            assert_eq!(other, None, "one rule for each flow");
            Some(flow.remote_port)
        }

        fn remove(&mut self, rule: u16) {
            assert!(self.rules.lock().unwrap().remove(&rule).is_some());
        }
    }

    fn note(remote_port: u16, owner: u8, joined: bool) -> SteeringNote {
        let [local_addr, remote_addr] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Into::into);
        let tuple = Tuple { local_addr, remote_addr, local_port: 1080, remote_port };
        SteeringNote { home: 0, owner, tuple, joined }
    }

    fn rules(mock: &Mock) -> Vec<(u16, u8)> {
        mock.rules.lock().unwrap().iter().map(|(port, shard)| (*port, *shard)).collect()
    }

    #[test]
    fn a_rule_comes_with_the_owner_s_word_and_goes_with_it() {
        let mock = Mock::default();
        let mut table = RuleTable::new(mock.clone(), 8);
        table.apply(&note(1, 2, true));
        table.apply(&note(2, 3, true));
        table.apply(&note(1, 2, true));
        assert_eq!(rules(&mock), [(1, 2), (2, 3)]);
        table.apply(&note(1, 3, false));
        assert_eq!(rules(&mock), [(1, 2), (2, 3)], "not its owner's word");
        table.apply(&note(2, 1, true));
        assert_eq!(rules(&mock), [(1, 2), (2, 1)], "another owner");
        table.apply(&note(1, 2, false));
        table.apply(&note(1, 2, false));
        assert_eq!(rules(&mock), [(2, 1)]);
        drop(table);
        assert_eq!(rules(&mock), []);
    }

    #[test]
    fn the_oldest_makes_place_and_what_a_port_refuses_is_not_kept() {
        let mut mock = Mock::default();
        let mut table = RuleTable::new(mock.clone(), 3);
        for port in 1..=5 {
            table.apply(&note(port, 1, true));
        }
        assert_eq!(rules(&mock), [(3, 1), (4, 1), (5, 1)]);
        assert_eq!((table.kept.len(), table.by_age.len()), (3, 3));
        drop(table);

        mock.full = true;
        let mut table = RuleTable::new(mock.clone(), 3);
        table.apply(&note(1, 1, true));
        table.apply(&note(1, 1, false));
        assert_eq!((rules(&mock), table.kept.len()), (vec![], 0));
    }
}
