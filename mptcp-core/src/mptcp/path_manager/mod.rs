//! Who opens further subflows, and between which addresses (RFC 8684 §3.2, §3.4). A policy is made
//! once per stack and asked; what it has led to is plain data of each connection ([`Paths`]).

mod paths;

pub(crate) use paths::{Announced, Endpoint, Join, Paths};

use crate::config::{MptcpConfig, PathManagerKind};
use alloc::boxed::Box;

/// A policy about further subflows.
pub(crate) trait PathManager: core::fmt::Debug + Send {
    /// Subflows that an initiator wants between an address of ours and one of the peer's, the first
    /// of the connection included; 0: none beyond it.
    fn subflows_per_pair(&self) -> u8;
    /// A responder tells its peer about its other endpoints.
    fn announces(&self) -> bool;
}

/// Accepts joins, never opens or announces any.
#[derive(Debug)]
struct Server;

impl PathManager for Server {
    fn subflows_per_pair(&self) -> u8 {
        0
    }

    fn announces(&self) -> bool {
        false
    }
}

/// One subflow from every endpoint to every address of the peer.
#[derive(Debug)]
struct Fullmesh;

impl PathManager for Fullmesh {
    fn subflows_per_pair(&self) -> u8 {
        1
    }

    fn announces(&self) -> bool {
        true
    }
}

/// As many subflows from every endpoint to every address of the peer, from differing ports: routers
/// that balance by flow spread them.
#[derive(Debug)]
struct Ndiffports(u8);

impl PathManager for Ndiffports {
    fn subflows_per_pair(&self) -> u8 {
        self.0
    }

    fn announces(&self) -> bool {
        true
    }
}

/// The policy a configuration asks for.
pub(crate) fn path_manager(config: &MptcpConfig) -> Box<dyn PathManager> {
    match config.path_manager {
        PathManagerKind::Fullmesh => Box::new(Fullmesh),
        PathManagerKind::Server => Box::new(Server),
        PathManagerKind::Ndiffports => Box::new(Ndiffports(config.subflows_per_pair)),
    }
}
