//! Which congestion control a connection uses, and how one takes over from another.

use super::{Bbr, Congestion, CongestionControl, Coupled, Coupling, Cubic, NewReno};
use crate::config::CongestionAlgorithm;
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::sync::Arc;

/// Makes an algorithm of the application's for one TCP connection or subflow. Told the payload of a
/// full segment in octets; it may not block, and its window is at least one segment.
pub type CongestionFactory = Arc<dyn Fn(u32, Instant) -> Box<dyn CongestionControl> + Send + Sync>;

/// What [`crate::stack::Stack::set_congestion`] takes.
///
/// ```
/// # use mptcp_core::config::CongestionAlgorithm;
/// # use mptcp_core::tcp::congestion::{CongestionChoice, NewReno};
/// let built_in: CongestionChoice = CongestionAlgorithm::Cubic.into();
/// let own = CongestionChoice::Own(std::sync::Arc::new(|mss, _now| Box::new(NewReno::new(mss))));
/// # let _ = (built_in, own);
/// ```
#[derive(Clone)]
pub enum CongestionChoice {
    /// One of those that come with the stack.
    Algorithm(CongestionAlgorithm),
    /// One of the application's; every subflow has an instance of its own.
    Own(CongestionFactory),
}

impl core::fmt::Debug for CongestionChoice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Algorithm(algorithm) => f.debug_tuple("Algorithm").field(algorithm).finish(),
            Self::Own(_) => f.write_str("Own"),
        }
    }
}

impl From<CongestionAlgorithm> for CongestionChoice {
    fn from(algorithm: CongestionAlgorithm) -> Self {
        Self::Algorithm(algorithm)
    }
}

impl CongestionChoice {
    /// A fresh instance for segments of `mss` octets.
    pub(crate) fn make(&self, mss: u32, now: Instant) -> Congestion {
        match self {
            Self::Algorithm(algorithm) => Congestion::new(*algorithm, mss, now),
            Self::Own(make) => Congestion::Custom(make(mss, now)),
        }
    }
}

impl Congestion {
    /// A fresh instance with the initial window of RFC 6928 for `mss`.
    #[must_use]
    pub fn new(algorithm: CongestionAlgorithm, mss: u32, now: Instant) -> Self {
        match algorithm {
            CongestionAlgorithm::NewReno => Self::NewReno(NewReno::new(mss)),
            CongestionAlgorithm::Cubic => Self::Cubic(Cubic::new(mss, now)),
            CongestionAlgorithm::Bbr => Self::Bbr(Bbr::new(mss, now)),
            CongestionAlgorithm::Lia => Self::Coupled(Coupled::new(Coupling::Lia, mss, now)),
            CongestionAlgorithm::Olia => Self::Coupled(Coupled::new(Coupling::Olia, mss, now)),
            CongestionAlgorithm::Balia => Self::Coupled(Coupled::new(Coupling::Balia, mss, now)),
        }
    }
}
